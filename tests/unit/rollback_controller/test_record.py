"""What a record keeps of its rollbacks, when there are more than it keeps."""

from contracts import facts as cf
from decisions.rollback.rule import rollback_id
from services.rollback_controller.domain import decision
from services.rollback_controller.domain.decision import Cause
from services.rollback_controller.domain.record import ROLLBACKS_KEPT
from testbed import factories as f
from tests.unit.rollback_controller.decisions import RULES, alert, route, state, switch, take


def refuse(before, number):
    order = cf.RollbackOrdered(reason="odd", failed=f.target(1))
    cause = Cause(f"o-{number}", "r-7", f.after(20), f.after(20), f.after(20), 10 + number)
    void = decision.decide_on_order(before, order, route(6, 5), cause, RULES)
    return decision.record_refusal(before, order, route(6, 5), cause, void)


def test_refused_orders_push_no_rollback_that_moved_traffic_out_of_the_record():
    before = switch(take(state(), alert(), fact_id="a-1"), at=10)
    (moved,) = before.rollbacks
    full = before.model_copy(update={"rollbacks": (moved.model_copy(update={"phase": "completed"}),)})
    for number in range(2 * ROLLBACKS_KEPT):
        full = refuse(full, number)
    assert len(full.rollbacks) == ROLLBACKS_KEPT
    assert full.rollback(rollback_id("a-1")) is not None
    assert full.rollback(rollback_id(f"o-{2 * ROLLBACKS_KEPT - 1}")) is not None
    assert full.rollback(rollback_id("o-0")) is None


def test_a_refusal_is_recorded_also_where_every_rollback_moved_traffic():
    (moved,) = switch(take(state(), alert(), fact_id="a-1"), at=10).rollbacks
    several = tuple(
        moved.model_copy(update={"rollback_id": f"rb-{number}", "phase": "completed"})
        for number in range(ROLLBACKS_KEPT)
    )
    after = refuse(state().model_copy(update={"rollbacks": several}), 1)
    assert after.rollbacks[:-1] == several[1:]
    assert after.rollbacks[-1].rollback_id == rollback_id("o-1")
