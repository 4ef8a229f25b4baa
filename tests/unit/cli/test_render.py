import pytest

from clients.cli.commands.status import Drawing
from clients.cli.events.event_log import parse, subjects_in
from clients.cli.releases.recorded_releases import describe_rollback
from clients.cli.views.render import as_data, block, event_line
from contracts import facts as f
from contracts.envelope import plain
from contracts.services import EVENTS, ORDERS
from contracts.vocabulary import canonical_json
from decisions.releases.work_progress import ongoing
from testbed.factories import after, event, fact, served
from tests.unit.cli.release_facts import THREE, logged, opened, progressed, release_of, whole_release


def test_every_variant_in_progress_has_its_own_line(capsys, snapshot):
    live = [progressed(variant, 20 + at, done=float(at), detail="") for at, variant in enumerate(THREE)]
    release = release_of([opened(variants=THREE), logged(f.CheckpointMerged, 12)])
    reports = ongoing(release.progress, live)
    Drawing(as_json=False)(release, reports, after(30))
    assert "\n".join(block(release, after(30))) + "\n\n" + capsys.readouterr().out == snapshot
    assert [report["variant"] for report in as_data(release, reports)["progress"]] == list(THREE)


def test_plain_lines_are_printed_once(capsys, snapshot):
    draw = Drawing(as_json=False)
    events = whole_release()
    for length in range(1, len(events) + 1):
        for _ in range(2):
            draw(release_of(events[:length]), (), after(100))
    assert capsys.readouterr().out == snapshot


def test_a_rollback_after_the_end_is_printed_too(capsys):
    draw = Drawing(as_json=False)
    rolled_back = event(fact(f.RollbackCompleted, failed=served(7).target, to=served(5).target, mode="automatic"))
    for text in ("", describe_rollback(rolled_back)):
        draw(release_of(whole_release(), text), (), after(130))
    ends = [line for line in capsys.readouterr().out.splitlines() if line.startswith("support-bot v7  promoted: ")]
    assert ["Since then" in line for line in ends] == [False, True]
    assert "support-bot.v7.int8 was rolled back to support-bot.v5.int8 automatically at " in ends[1]


def test_plain_progress_is_printed_in_steps_of_ten_percent(capsys):
    draw, release = Drawing(as_json=False), release_of(whole_release()[:2])
    for done in range(101):
        live = logged(f.WorkProgressed, 20, variant="int8", done=float(done), total=100.0)
        draw(release, ongoing(release.progress, [live]), after(30))
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
