import pytest

from clients.cli.commands.status import PlainDrawing
from clients.cli.event_log import parse, subjects_in
from clients.cli.views.render import as_data, bar, duration, event_line, plain_block, rich_block, work_line
from contracts import facts as f
from contracts.envelope import plain
from contracts.services import EVENTS, ORDERS
from contracts.vocabulary import canonical_json
from decisions.release_projection import join, project
from decisions.work_progress import Progress
from testbed.factories import after, event
from tests.unit.cli.test_release_view import (
    THREE,
    finished,
    logged,
    only,
    opened,
    progressed,
    ready,
    rolled_back,
    whole_release,
)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text


def test_a_bar_is_never_longer_than_its_work():
    assert bar(Progress("quantise", 40, 30, "layers")).startswith("█" * 24 + " 100%")
    assert bar(Progress("quantise", 0, 0, "layers")).startswith("░" * 24 + "   0%")


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress("quantise", 12, 30, "layers", "gptq-int4"), "quantise gptq-int4: layer 12 of 30"),
        (Progress("upload", 45e6, 90e6, "bytes", "int8"), "upload int8: 45 of 90 MB"),
        (
            Progress("stage", 1, 2, "targets", "int8", "m.v1.int8 loading for 3 s"),
            "stage int8: target 1 of 2, m.v1.int8 loading for 3 s",
        ),
        (Progress("merge", 3, 210, "tensors"), "merge: tensor 3 of 210"),
    ],
)
def test_progress_names_the_work_and_its_share(progress, text):
    assert work_line(progress) == text
    assert bar(progress).endswith(text)


def test_every_variant_in_progress_has_its_own_line(capsys):
    from rich.console import Console

    live = [progressed(variant, 20 + at, done=float(at), detail="") for at, variant in enumerate(THREE)]
    release = only(project([ready(), opened(variants=THREE), logged(f.CheckpointMerged, 12), *live]))
    expected = [f"quantise {variant}: layer {at} of 30" for at, variant in enumerate(THREE)]
    assert [line.split("% ")[1] for line in plain_block(release, after(30))[-3:]] == expected
    console = Console(width=200, no_color=True)
    with console.capture() as shown:
        console.print(rich_block(release, after(30)))
    assert [line.split("% ")[1] for line in shown.get().splitlines()[-3:]] == expected
    PlainDrawing(as_json=False)(release, after(30))
    printed = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("    quantise")]
    assert printed == [f"{text} ({share}%)" for text, share in zip(expected, (0, 3, 7), strict=True)]
    assert [progress["variant"] for progress in as_data(release)["progress"]] == list(THREE)


def test_a_block_names_release_steps_and_end():
    lines = plain_block(only(project(whole_release())), after(500))
    assert lines[0].startswith("support-bot v7  r-0123456789abcdef-1")
    assert "promoted after 1 min 30 s" in lines[0]
    assert any(line.startswith("  ✓ quantised") for line in lines)


def test_a_release_in_progress_shows_its_duration():
    assert "in progress for 3 min 20 s" in plain_block(only(project([ready()])), after(200))[0]


def test_the_terminal_shows_the_same_lines():
    from rich.console import Console

    console = Console(width=200, no_color=True)
    release = only(project(whole_release()))
    with console.capture() as shown:
        console.print(rich_block(release, after(500)))
    assert [line.rstrip() for line in shown.get().splitlines()] == plain_block(release, after(500))


def test_the_data_of_a_release_hides_internal_fields():
    data = as_data(only(project(whole_release())))
    assert data["outcome"] == "promoted"
    assert data["steps"][0]["name"] == "admitted"
    assert not {"key", "inputs", "source_id", "work"} & set(data)


def test_plain_lines_are_printed_once(capsys):
    draw = PlainDrawing(as_json=False)
    events = whole_release()
    for length in range(1, len(events) + 1):
        for _ in range(2):
            draw(only(project(events[:length])), after(100))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(lines))
    assert sum("✓ merged" in line for line in lines) == 1
    assert lines[-1].startswith("support-bot v7  promoted")


def test_a_rollback_after_the_end_is_printed_too(capsys):
    draw = PlainDrawing(as_json=False)
    promoted = [*whole_release()[:-1], finished(version=7)]
    for events in (promoted, [*promoted, rolled_back(120)]):
        draw(only(project(events)), after(130))
    ends = [line for line in capsys.readouterr().out.splitlines() if line.startswith("support-bot v7  promoted: ")]
    assert ["Since then" in line for line in ends] == [False, True]


def test_plain_progress_is_printed_in_steps_of_ten_percent(capsys):
    draw = PlainDrawing(as_json=False)
    for done in range(101):
        live = logged(f.WorkProgressed, 20, done=float(done), total=100.0)
        draw(only(project([*whole_release()[:3], live])), after(30))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("    quantise")]
    assert len(lines) == 11


def test_an_event_is_one_line():
    line = event_line(event(f.ReleaseFinished))
    assert "release.finished" in line
    assert "outcome=rejected" in line
    assert "\n" not in line


@pytest.mark.parametrize("kind", list(f.FACTS.values()), ids=lambda kind: kind.TYPE)
def test_every_event_is_parsed_and_printed(kind):
    original = event(kind)
    parsed = parse(original.nats_subject, canonical_json(plain(original)))
    assert parsed.data == original.data
    assert kind.TYPE.removeprefix("slipway.").removesuffix(".v1") in event_line(parsed)


@pytest.mark.parametrize("body", [b"", b"nonsense", b"{}", b"[1]", b'{"type": "slipway.checkpoint.ready.v1"}'])
def test_an_invalid_event_is_skipped(body):
    assert parse("slipway.checkpoint.ready.v1.support-bot.paula", body) is None


def test_an_event_under_anothers_name_is_skipped():
    """Its sender is in its subject, which the bus checks; what its body claims is shown to no one."""
    forged = event(f.RollbackOrdered, source="/slipway/anna")
    assert parse(forged.nats_subject, canonical_json(plain(forged))).sender == "anna"
    assert parse(forged.nats_subject.replace("anna", "oscar"), canonical_json(plain(forged))) is None


def test_the_log_is_filtered_by_model_on_the_server():
    assert subjects_in(ORDERS, ("support-bot",), None) == ["slipway.*.*.v1.support-bot.*"]
    assert subjects_in(EVENTS, None, None) == [">"]


def test_no_events_give_no_releases():
    assert join(project([])) == {}
