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
from tests.unit.cli.release_facts import (
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


def test_a_bar_names_the_work_and_is_never_longer_than_it(snapshot):
    work = [
        Progress("quantise", 40, 30, "layers"),
        Progress("quantise", 0, 0, "layers"),
        Progress("quantise", 12, 30, "layers", "gptq-int4"),
        Progress("upload", 45e6, 90e6, "bytes", "int8"),
        Progress("stage", 1, 2, "targets", "int8", "m.v1.int8 loading for 3 s"),
        Progress("merge", 3, 210, "tensors"),
    ]
    assert all(bar(progress).endswith(work_line(progress)) for progress in work)
    assert "\n".join([*map(bar, work), *map(duration, (0.4, 59.4, 60, 200, 7500))]) == snapshot


def test_every_variant_in_progress_has_its_own_line(capsys, snapshot):
    live = [progressed(variant, 20 + at, done=float(at), detail="") for at, variant in enumerate(THREE)]
    release = only(project([ready(), opened(variants=THREE), logged(f.CheckpointMerged, 12), *live]))
    PlainDrawing(as_json=False)(release, after(30))
    assert "\n".join(plain_block(release, after(30))) + "\n\n" + capsys.readouterr().out == snapshot
    assert [progress["variant"] for progress in as_data(release)["progress"]] == list(THREE)


def test_a_block_names_release_steps_and_end(snapshot):
    blocks = [plain_block(only(project(events)), after(200)) for events in (whole_release(), [ready()])]
    assert "\n\n".join("\n".join(lines) for lines in blocks) == snapshot


def test_plain_lines_are_printed_once(capsys, snapshot):
    draw = PlainDrawing(as_json=False)
    events = whole_release()
    for length in range(1, len(events) + 1):
        for _ in range(2):
            draw(only(project(events[:length])), after(100))
    assert capsys.readouterr().out == snapshot


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


def test_every_event_is_parsed_and_printed_on_one_line(snapshot):
    lines = []
    for kind in f.FACTS.values():
        original = event(kind)
        parsed = parse(original.nats_subject, canonical_json(plain(original)))
        assert parsed.data == original.data
        lines.append(event_line(parsed))
    assert [line for line in lines if "\n" in line] == []
    assert "\n".join(lines) == snapshot


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
