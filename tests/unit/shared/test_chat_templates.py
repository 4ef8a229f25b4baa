"""Chat templates: right for good ones, and harmless for hostile ones."""

import asyncio
import os
import signal
from datetime import UTC, datetime

import pytest

from shared.errors import Permanent, Transient
from shared.serving.chat_templates import ChatTemplates

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HELLO = [{"role": "user", "content": "Hello <b>& 'you'</b> ü"}]


class FixedClock:
    def now(self):
        return datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)

    def monotonic(self):
        return 0.0


@pytest.fixture
async def templates():
    templates = ChatTemplates(FixedClock(), limit_s=2.0)
    yield templates
    await templates.close()


@pytest.fixture
async def slow_templates():
    """For templates that another limit than the time stops: on a busy machine the time must not be over before it.

    None of them would take more than a few gigabytes if that limit were gone.
    """
    templates = ChatTemplates(FixedClock(), limit_s=60.0)
    yield templates
    await templates.close()


async def test_renders_as_the_model_expects_it(templates):
    text = await templates.render(CHATML, HELLO)
    assert text == "<|im_start|>user\nHello <b>& 'you'</b> ü<|im_end|>\n<|im_start|>assistant\n"


async def test_leaves_the_generation_prompt_out_when_told_to(templates):
    text = await templates.render(CHATML, HELLO, add_generation_prompt=False)
    assert text.endswith("<|im_end|>\n")


async def test_knows_tokens_extra_variables_loop_controls_and_the_date(templates):
    template = "{{ bos_token }}{% for n in range(9) %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}"
    template += "{{ tools | tojson }}{{ strftime_now('%d %b %Y') }}{{ eos_token }}"
    text = await templates.render(template, HELLO, bos_token="<s>", eos_token="</s>", tools=[{"a": "<"}])
    assert text == '<s>01[{"a": "<"}]04 Mar 2026</s>'


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}", "21"),
        ("{% for m in messages %}{% generation %}{{ loop.index }}{{ m.role }}{% endgeneration %}{% endfor %}", "1user"),
        ("{{ {'b': 1, 'a': 'ü'} | tojson(true) }}", '{"b": 1, "a": "\\u00fc"}'),
        ("{{ {'b': 1, 'a': 'ü'} | tojson(indent=1, sort_keys=true) }}", '{\n "a": "ü",\n "b": 1\n}'),
    ],
)
async def test_renders_as_the_hubs_own_library_does(templates, template, text):
    from transformers.utils.chat_template_utils import render_jinja_template

    assert render_jinja_template([HELLO], chat_template=template, add_generation_prompt=True)[0] == [text]
    assert await templates.render(template, HELLO) == text


async def test_what_is_not_given_is_not_known(templates):
    template = "{{ bos_token is defined }} {{ eos_token }} {{ messages[0]['role'] }}"
    assert await templates.render_with(template, {"messages": HELLO, "eos_token": "</s>"}) == "False </s> user"


async def test_a_template_that_refuses_is_the_callers_error(templates):
    with pytest.raises(Permanent, match="only users") as caught:
        await templates.render("{{ raise_exception('only users') }}", HELLO)
    assert caught.value.code == "bad_request"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ messages.__class__.__mro__ }}", "SecurityError"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "SecurityError|Undefined"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ 'x' * 3000000 }}", "characters"),
        ("{{ 'x' * 4000000000 }}", "memory"),
        (
            "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(28) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "memory",
        ),
        ("{% for i in range(99999999) %}{% endfor %}", "OverflowError"),
    ],
)
async def test_a_hostile_template_is_refused_and_the_next_one_served(slow_templates, template, why):
    with pytest.raises(Permanent, match=why) as caught:
        await slow_templates.render(template, HELLO)
    assert caught.value.code == "engine_failed"
    assert await slow_templates.render("{{ messages[0]['role'] }}", HELLO) == "user"


async def test_a_template_that_never_ends_is_killed_and_the_next_one_served():
    templates = ChatTemplates(FixedClock(), limit_s=0.3, wait_s=60.0)
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    try:
        with pytest.raises(Permanent, match=r"exceeded the limit of 0\.3 s of processor time"):
            await templates.render(endless, HELLO)
        assert await templates.render("{{ messages[0]['role'] }}", HELLO) == "user"
    finally:
        await templates.close()


async def test_a_template_that_the_machine_does_not_run_is_tried_again():
    """Its process is stopped, as one that gets no processor: that says nothing about the template."""
    templates = ChatTemplates(FixedClock(), limit_s=5.0, wait_s=0.5)
    try:
        await templates.render("warm", HELLO)
        os.kill(templates._child.pid, signal.SIGSTOP)
        with pytest.raises(Transient, match=r"it got less than 5 s of processor time in 0\.5 s; the machine is busy"):
            await templates.render("x", HELLO)
        assert await templates.render("y", HELLO) == "y"
    finally:
        await templates.close()


async def test_a_template_whose_process_is_killed_for_memory_is_tried_again(slow_templates):
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    await slow_templates.render("warm", HELLO)
    killed = slow_templates._child
    rendering = asyncio.create_task(slow_templates.render(endless, HELLO))
    await asyncio.sleep(0)
    killed.kill()
    with pytest.raises(Transient, match="its process was killed from outside"):
        await rendering
    assert await slow_templates.render("y", HELLO) == "y"


async def test_the_processor_time_of_earlier_renderings_does_not_count():
    templates = ChatTemplates(FixedClock(), limit_s=0.5)
    some = "{% for a in range(2000) %}{% for b in range(100) %}{% endfor %}{% endfor %}done"
    try:
        child = None
        for _ in range(120):
            assert await templates.render(some, HELLO) == "done"
            child = child or templates._child
        with open(f"/proc/{child.pid}/stat") as stat:  # noqa: PTH123
            ticks = sum(map(int, stat.read().rpartition(")")[2].split()[11:13]))
        assert templates._child is child
        assert ticks / os.sysconf("SC_CLK_TCK") > 0.5, "together they took more than one may"
    finally:
        await templates.close()


async def test_answers_never_meet_the_wrong_question(templates):
    questions = [f"question {number}" for number in range(30)]
    answers = await asyncio.gather(
        *(templates.render("{{ messages[0]['content'] }}", [{"role": "user", "content": q}]) for q in questions)
    )
    assert answers == questions


async def test_a_caller_who_goes_away_leaves_no_late_answer_behind(templates):
    slow = "{% for a in range(20000) %}{% for b in range(500) %}{% endfor %}{% endfor %}late"
    assert await templates.render("warm", HELLO) == "warm"
    gone = asyncio.create_task(templates.render(slow, HELLO))
    await asyncio.sleep(0)
    while not gone.done() and not templates._lock.locked():
        await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert await templates.render("next", HELLO) == "next"


@pytest.mark.parametrize("after_s", [0.0, 0.005, 0.02, 0.05])
async def test_a_caller_who_goes_away_during_the_start_leaves_nothing_behind(templates, after_s):
    gone = asyncio.create_task(templates.render("secret", HELLO))
    await asyncio.sleep(after_s)  # the moment of the start at which it goes is what is shown
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert [await templates.render(text, HELLO) for text in ("one", "two", "three")] == ["one", "two", "three"]


async def test_a_process_that_cannot_be_started_is_a_transient_error(monkeypatch, templates):
    monkeypatch.setattr("sys.executable", "/no such program")
    with pytest.raises(Transient, match="does not start"):
        await templates.render("x", HELLO)


async def test_the_environment_cannot_be_read(monkeypatch, templates):
    monkeypatch.setenv("SLIPWAY_S3_CREDENTIALS", "/a-secret.s3")
    await templates.render("x", HELLO)
    child = templates._child
    assert child is not None
    with open(f"/proc/{child.pid}/environ", "rb") as environment:  # noqa: PTH123
        assert b"a-secret" not in environment.read()


async def test_the_variables_that_a_template_reads_are_listed(templates):
    template = (
        "{% set own = 1 %}{{ enable_thinking }}{{ strftime_now('%d') }}{% for m in messages %}{{ m.x }}{% endfor %}"
    )
    assert await templates.variables_of(template + "{{ raise_exception(own) }}") == {"enable_thinking", "messages"}
    with pytest.raises(Permanent, match="cannot be rendered: TemplateSyntaxError"):
        await templates.variables_of("{{ messages[")
