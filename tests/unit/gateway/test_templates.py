"""Rendering templates: the sandboxed pool and its stand-in behave alike, and a bomb harms only its own model."""

import asyncio

import pytest

from services.gateway.adapters.templates import SandboxedTemplates
from services.gateway.ports import TemplateBusy, TemplateFailed
from shared.runtime.clock import SystemClock
from tests.unit.gateway.fakes import InProcessTemplates, StepClock
from tests.unit.gateway.templates_conformance import TemplatesConformance, render

BOMB = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


class TestInProcessTemplates(TemplatesConformance):
    @pytest.fixture
    def templates(self):
        return InProcessTemplates()


class TestSandboxedTemplates(TemplatesConformance):
    @pytest.fixture
    async def templates(self):
        pool = SandboxedTemplates(SystemClock(), workers=2, time_s=1.0)
        await pool.start()
        yield pool
        await pool.close()

    async def test_bombs_of_one_model_leave_a_process_to_the_others(self, templates):
        bombs = [asyncio.ensure_future(render(templates, BOMB)) for _ in range(4)]
        while templates._free.qsize() == 2:
            await asyncio.sleep(0)
        # Holds a process for a second; meanwhile the other one serves.
        assert await render(templates, "fine") == "fine"
        assert not any(bomb.done() for bomb in bombs)
        outcomes = await asyncio.gather(*bombs, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {TemplateFailed, TemplateBusy}
        assert TemplateFailed in {type(outcome) for outcome in outcomes}
        assert await render(templates, "still fine") == "still fine"

    async def test_messages_that_run_into_the_time_limit_prove_nothing(self, templates):
        """The template is slow for these messages; all processes but the one for proofs are held by them."""
        slow = "{% if messages[0].content == 'Hi <b>' %}" + BOMB + "{% endif %}fine"
        others = [asyncio.ensure_future(render(templates, slow)) for _ in range(3)]
        with pytest.raises((TemplateFailed, TemplateBusy)):
            await render(templates, slow)
        assert await templates.renders_probe(slow, bos_token="", eos_token="") is True
        await asyncio.gather(*others, return_exceptions=True)

    async def test_a_process_that_is_stopped_once_proves_nothing_three_times_it_does(self):
        """A machine that stands still for a moment must not turn what callers send wrong against the target."""
        templates = SandboxedTemplates(SystemClock(), workers=1, time_s=0.3)  # leaves time to start a process
        await templates.start()
        try:
            results = [await templates.renders_probe(BOMB, bos_token="", eos_token="") for _ in range(4)]
            assert results == [None, None, False, False]
            assert await templates.renders_probe("fine", bos_token="", eos_token="") is True
        finally:
            await templates.close()

    async def test_what_renders_in_between_starts_the_count_anew(self):
        clock = StepClock()
        templates = SandboxedTemplates(clock, workers=1, time_s=0.1)
        await templates.start()
        key = ("fine", "", "")
        try:
            templates._stopped[key] = 2
            assert await templates.renders_probe(*key[:1], bos_token="", eos_token="") is True
            assert key not in templates._stopped
        finally:
            await templates.close()
