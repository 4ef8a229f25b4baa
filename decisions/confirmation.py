"""What shows that a target is the cause of an alert, and not who uses it.

A trigger's own evidence raises its alert. Before an automatic rollback follows, something that no caller controls must
show that the version is the cause:

- **pairs**: requests that the previous version answered as well, bad on this version only (`decisions.pairs`),
  whichever callers with at most half of the requests are left out (`decisions.pair_shares`);
- **callers**, for errors: a failed request counts once the previous version has answered the same request; one that
  nothing was compared with counts unless one caller alone carries the evidence: one key, and besides one team with all
  its keys. A caller with clearly more than half of the requests is confirmed by its compared failures only, since there
  may be no others; one with just half has more than half of a few every other time. What failed because an engine died
  counts as one death, and deaths confirm unless few callers may have caused all (`decisions.engine_deaths`);
- **drill**: a declared fault touched at least half of the bad requests.

Latency and quality are never confirmed by the number of callers: many keys may be in one hand.
"""

import math

from contracts.facts.watch import Confirmation
from contracts.policy import Trigger
from decisions.callers import CallerCount, CallerShares
from decisions.engine_deaths import DeathLog
from decisions.evidence import plan_bet, process_log_e
from decisions.observation import TriggerState
from decisions.pair_callers import CLEAR_SIGMAS
from decisions.pair_shares import are_from_most
from decisions.pairs import MirrorTest, is_confirmed
from decisions.triggers import kind_of, limit_of

SUSPICION = 20.0
"""The e-value that the evidence of the other callers must have: no alarm by itself, and no accident either."""


def confirm(trigger: Trigger, state: TriggerState, *, drilled: bool, deaths: DeathLog) -> Confirmation | None:
    """Return what confirms an alert of a trigger; None where records do not say who the callers are.

    Evidence that good requests outweigh names no callers, either: that confirms nothing.
    """
    if drilled:
        return "drill"
    if _is_by_pairs(trigger, state.mirrored, deaths):
        return "pairs"
    if state.callers.unknown:
        return None
    if kind_of(trigger) == "errors" and (_are_from_several(trigger, state) or _are_of_the_engine(deaths)):
        return "callers"
    return "none"


def _is_by_pairs(trigger: Trigger, test: MirrorTest | None, deaths: DeathLog) -> bool:
    """Return whether pairs confirm, and not only those of callers with at most half of the requests."""
    if test is None or not is_confirmed(trigger, test):
        return False
    return are_from_most(test.holders, deaths.requests, trigger.alpha)


def _are_of_the_engine(deaths: DeathLog) -> bool:
    """Return whether the engine is dead, or was, for reasons that few callers cannot be."""
    return bool(deaths.deaths) and not deaths.is_explained


def _are_from_several(trigger: Trigger, state: TriggerState) -> bool:
    """Return whether the failures are neither of one key alone nor of one team alone.

    Without what is known of teams, as in a record of an earlier version, keys decide.
    """
    of_teams = not state.holders.known or _is_from_several(trigger, state.holders)
    return of_teams and _is_from_several(trigger, state.callers)


def _is_from_several(trigger: Trigger, shares: CallerShares) -> bool:
    """Return whether the failures speak against the target without the caller that had most of them."""
    total, heaviest = shares.total, shares.heaviest
    if 2 * heaviest.requests - total.requests >= CLEAR_SIGMAS * math.sqrt(total.requests) > 0.0:
        return _is_suspicious(trigger, CallerCount(requests=total.requests, bad=total.compared))
    rest = CallerCount(requests=total.requests - heaviest.requests, bad=total.bad - heaviest.bad)
    return _is_suspicious(trigger, rest)


def _is_suspicious(trigger: Trigger, count: CallerCount) -> bool:
    return process_log_e(plan_bet(limit_of(trigger)), count.requests, count.bad) >= math.log(SUSPICION)
