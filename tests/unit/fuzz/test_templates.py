"""Hostile chat templates: each is rendered or refused, in the time that it may take, and the next one is rendered."""

import asyncio
import random
from datetime import UTC, datetime

import pytest

from clients.cli.sources.sample_model import CHAT_TEMPLATE
from services.merger.domain.serving import TOOL_CONVERSATION, TOOLS
from shared.errors import Permanent, Transient
from shared.serving.chat_templates import ChatTemplates
from tests.kit.mutation import attack, code_of, damage

HERMES = (
    "{%- if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{%- for message in messages %}{%- if message.role == 'assistant' and message.tool_calls %}"
    "{%- for call in message.tool_calls %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "{%- else %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{%- endif %}{%- endfor %}"
)
SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ strftime_now('%Y-%m-%d') }}{% generation %}{{ messages[-1].content }}{% endgeneration %}"
)
PIECES = (
    "{% for a in range(100000000) %}{% for b in range(100000000) %}{% endfor %}{% endfor %}",
    "{% for a in range(3000) %}{{ 'x' * 100000 }}{% endfor %}",
    "{{ 'x' * 10**10 }}",
    "{{ 10 ** 10 ** 8 }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('id') }}",
    "{{ ''.__class__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ messages[0].content.format(messages) }}",
    "{% set x = namespace(a=[]) %}{% for i in range(99) %}{% set x.a = x.a + [x.a] %}{% endfor %}{{ x.a }}",
    "{{ messages | map('upper') | list | tojson }}",
    "{% import 'os' as os %}",
    "{% include '/etc/passwd' %}",
    "{% extends 'x' %}",
    "{{ undefined.attribute.other }}",
    "{{ 1 / 0 }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ 'a' | center(999999999) }}",
    "{{ ('a,' * 100000) | replace('a', 'b' * 100000) }}",
    "{{ range(10**9) | list }}",
    "{{ lipsum(n=100000) }}",
    "{{ strftime_now('%' * 100000) }}",
    "{{ '\ud800' }}",
    "{{" + "(" * 3000 + "1" + ")" * 3000 + "}}",
    "{% if 1 %}" * 500 + "{% endif %}" * 500,
    "{{ messages | tojson(indent=100000) }}",
    "{% break %}",
    "{% generation %}",
    "{{ raise_exception('x' * 100000) }}",
    "{{ raise_exception(messages) }}",
    "{# " + "x" * 100_000,
    "{{ 'x' | wordwrap(1) }}",
    "{% filter upper %}{{ messages }}{% endfilter %}",
)
GOOD = tuple(text.encode() for text in (CHAT_TEMPLATE, HERMES, SYSTEM))
LIMIT_S = 0.5


class Clock:
    """Stands still."""

    def now(self) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0


def draw_template(draw: random.Random) -> bytes:
    text = draw.choice(GOOD)
    kind = draw.randrange(8)
    if kind == 0:
        at = draw.randrange(len(text) + 1)
        return text[:at] + draw.choice(PIECES).encode("utf-8", "surrogatepass") + text[at:]
    return damage(draw, text, GOOD)


@pytest.fixture
def render():
    """Return a function that renders a template with a tool conversation, and what became of it."""
    with asyncio.Runner() as runner:
        templates = ChatTemplates(Clock(), limit_s=LIMIT_S)

        def take(data: bytes) -> str:
            template = data.decode("utf-8", "surrogateescape")
            variables = {"messages": TOOL_CONVERSATION, "tools": TOOLS, "bos_token": "", "eos_token": ""}
            try:
                text = runner.run(templates.render_with(template, variables))
            except (Permanent, Transient) as error:
                return code_of(error) if isinstance(error, Permanent) else "busy"
            assert len(text) <= 2_000_000
            return "rendered"

        yield take
        runner.run(templates.close())


def test_templates_that_attack_are_rendered_or_refused_and_the_next_one_is_rendered(render):
    for piece in PIECES:
        assert render(piece.encode("utf-8", "surrogatepass")) in {"rendered", "engine_failed", "bad_request", "busy"}, (
            piece
        )
        assert render(GOOD[0]) in {"rendered", "busy"}, piece


def test_hostile_templates_are_rendered_or_refused(render):
    outcome = attack(draw_template, render)
    assert set(outcome.counts) <= {"rendered", "engine_failed", "bad_request", "busy"}
    assert min(outcome.counts["rendered"], outcome.counts["engine_failed"]) > 30


def test_the_variables_of_hostile_templates_are_found_or_the_template_is_refused():
    with asyncio.Runner() as runner:
        templates = ChatTemplates(Clock(), limit_s=LIMIT_S)

        def take(data: bytes) -> str:
            try:
                runner.run(templates.variables_of(data.decode("utf-8", "surrogateescape")))
            except (Permanent, Transient) as error:
                return error.code
            return "read"

        outcome = attack(draw_template, take)
        runner.run(templates.close())
    assert min(outcome.counts["read"], outcome.counts["engine_failed"]) > 50
