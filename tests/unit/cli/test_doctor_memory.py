"""What `slipway doctor` says about memory is what server-manager does on such a machine."""

import pytest

from clients.cli.doctor.assess import GIB, assess_memory
from clients.cli.doctor.checks import WEIGHTS_BYTES
from decisions.serving.memory import OVERHEAD_BYTES, budget_bytes
from services.server_manager.domain import staging
from services.server_manager.domain.answer_types import FailLease, GrantLease
from services.server_manager.domain.decide import decide_answers
from services.server_manager.domain.reconcile import Limits
from services.server_manager.domain.records import Servers
from tests.unit.server_manager.factories import START, deployable, route, stage_requested


def staged(total_bytes, routes, candidate, baseline):
    """Return whether a candidate of the demo's size is staged beside production on a machine with so much memory."""
    limits = Limits(budget_bytes(total_bytes), OVERHEAD_BYTES["slipway"]["cpu"])
    event = stage_requested("s1", candidate, baseline, weights=WEIGHTS_BYTES)
    base = deployable(baseline, weights_bytes=WEIGHTS_BYTES)
    event = event.model_copy(update={"data": event.data.model_copy(update={"baseline": base})})
    (answer,) = decide_answers(staging.enqueue_staging(Servers(), event), routes, {}, limits, START, waited_s={})
    assert isinstance(answer, GrantLease) or (isinstance(answer, FailLease) and answer.code == "insufficient_memory")
    return isinstance(answer, GrantLease)


def serving(active, previous):
    """Return the route of a model of the demo's size."""
    usual = route(active, previous)
    weights = {"weights_bytes": WEIGHTS_BYTES}
    changed = {role: getattr(usual, role).model_copy(update=weights) for role in ("active", "previous")}
    return {"bot": usual.model_copy(update=changed)}


@pytest.mark.parametrize("gib", [4, 8, 9, 10, 11, 12, 13, 14, 15, 15.6, 16, 17, 18, 20, 23.5, 24, 32])
def test_a_first_and_a_second_release_are_staged_where_the_finding_says_so(gib):
    total = round(gib * GIB)
    finding = assess_memory(total, total, weights_bytes=WEIGHTS_BYTES, engine="slipway")
    first, second = staged(total, {}, 1, 0), staged(total, serving(1, 0), 2, 1)
    assert finding.state == {(False, False): "failure", (True, False): "warning", (True, True): "ok"}[first, second]
    if finding.state == "warning":
        assert "the second release of a model is refused (insufficient_memory)" in finding.advice


def test_the_demo_fits_a_machine_with_24_gigabytes():
    """Of which the kernel keeps some: 23 GiB are left. One model, at most three of its versions at a time."""
    assert assess_memory(23 * GIB, 20 * GIB, weights_bytes=WEIGHTS_BYTES, engine="slipway").state == "ok"
