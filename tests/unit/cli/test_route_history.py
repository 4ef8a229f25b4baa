import pytest

from decisions.replay.route_history import Routes, Span, cut, share_of
from testbed.factories import after
from tests.unit.cli.recordings import V1, V2, V3, changed, on_trial, serving


def test_a_target_took_traffic_from_its_promotion_to_the_next():
    routes = Routes([changed(1, 0, 1), changed(2, 100, 2, 1), changed(3, 200, 1, cause="rollback", quarantined=(V2,))])
    assert routes.spans(V2) == [Span("active", 1.0, after(100), after(200))]
    assert routes.spans(V1) == [Span("active", 1.0, after(0), after(100)), Span("active", 1.0, after(200))]
    assert routes.spans(V3) == []


def test_a_canary_becomes_active_and_each_share_is_a_span():
    events = [
        changed(1, 0, 1),
        changed(2, 100, 1, cause="canary", canary=on_trial(2, 0.1)),
        changed(3, 150, 1, cause="canary", canary=on_trial(2, 0.5)),
        changed(4, 200, 2, 1),
    ]
    assert Routes(events).spans(V2) == [
        Span("canary", 0.1, after(100), after(150)),
        Span("canary", 0.5, after(150), after(200)),
        Span("active", 1.0, after(200)),
    ]
    assert Routes(events).spans(V1) == [Span("active", 1.0, after(0), after(200))]


def test_an_aborted_canary_takes_nothing():
    route = changed(2, 100, 1, cause="abort", canary=on_trial(2, 0.0)).data.route
    assert share_of(route, V2) is None
    assert share_of(route, V1) == ("active", 1.0)


def test_a_repeated_route_or_out_of_order_is_the_same():
    events = [changed(1, 0, 1), changed(2, 100, 2, 1), changed(3, 200, 3, 2)]
    for ordered in ([*events, *events], events[::-1]):
        assert Routes(ordered).spans(V2) == Routes(events).spans(V2) == [Span("active", 1.0, after(100), after(200))]
        assert Routes(ordered).before(after(150)).active == serving(2)


def test_clocks_that_disagree_do_not_change_the_order_of_epochs():
    routes = Routes([changed(1, 100, 1), changed(2, 99.5, 2, 1), changed(3, 200, 3, 2)])
    assert routes.spans(V1) == []
    assert routes.spans(V2) == [Span("active", 1.0, after(100), after(200))]
    assert routes.before(after(100.5)).active == serving(2)


def test_before_the_first_route_nothing_is_known():
    routes = Routes([changed(4, 50, 2, 1)])
    assert routes.before(after(50)) is None
    assert routes.began() == after(50)
    assert Routes([]).began() is None
    assert Routes([]).spans(V2) == []


def test_a_target_returns_by_a_promotion_of_its_own_only():
    events = [
        changed(1, 0, 2, 1),
        changed(2, 100, 2, 1, cause="canary", canary=on_trial(3)),
        changed(3, 200, 3, 2),
        changed(4, 300, 2, 1, cause="rollback"),
        changed(5, 400, 2, 1),
    ]
    routes = Routes(events)
    assert routes.returns(V2, after(50)) == after(400)
    assert routes.returns(V3, after(50)) == after(100)
    assert routes.returns(V3, after(150)) == after(200)
    assert routes.returns(V1, after(0)) is None
    assert routes.returns(V2, after(400)) is None, "it was back by then"


def test_a_span_overlaps_the_time_within():
    span = Span("active", 1.0, after(10), after(20))
    assert span.overlap(after(0), after(15)) == (after(10), after(15))
    assert span.overlap(after(12), after(40)) == (after(12), after(20))
    assert span.overlap(after(20), after(40)) is None
    assert Span("active", 1.0, after(10)).overlap(after(0), after(40)) == (after(10), after(40))


@pytest.mark.parametrize(
    ("begin", "end", "kept"),
    [
        (0, 10, [(10, 20), (30, None)]),
        (12, 15, [(10, 12), (15, 20), (30, None)]),
        (12, None, [(10, 12)]),
        (5, 35, [(35, None)]),
        (10, 20, [(30, None)]),
        (40, None, [(10, 20), (30, 40)]),
        (22, 28, [(10, 20), (30, None)]),
    ],
)
def test_a_time_is_cut_out_of_spans(begin, end, kept):
    spans = [Span("active", 1.0, after(10), after(20)), Span("canary", 0.1, after(30))]
    remaining = cut(spans, after(begin), after(end) if end is not None else None)
    assert [(span.since, span.until) for span in remaining] == [
        (after(a), after(b) if b is not None else None) for a, b in kept
    ]
