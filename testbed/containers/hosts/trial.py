"""Host after host fails under load, during a release or a rollback; then everything must hold again."""

import contextlib
import json
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from testbed.containers.demo import rollback_durations
from testbed.containers.hosts import clock
from testbed.containers.hosts.callers import CallersOfTwoHosts
from testbed.containers.hosts.cluster import Cluster
from testbed.containers.hosts.log_checks import Event, findings, of_kind, unfinished
from testbed.containers.hosts.members import BUS, HOSTS, host_of
from testbed.containers.hosts.rounds import Round
from testbed.containers.hosts.ways import WAYS
from testbed.containers.installation import MODEL, service_of
from testbed.containers.isolation import findings as differences
from testbed.containers.waiting import report, step, wait_for

AWAY_S = 20.0
"""How long a host is away."""
FINISHED_S, MOVED_S, RECOVERED_S = 900.0, 300.0, 300.0
"""Longest waits: for the end of a release, for a rollback, for everything to be as before a failure."""
LONGEST_GAP_S = 45.0
"""Longest time without any answer of either gateway."""
ANSWERS_S = 120.0
"""Longest wait for the first answer of a gateway to a new key."""
RETRY_S = 5.0


@dataclass
class Trial:
    """The rounds, in their order; `wrong` collects what did not hold.

    Attributes:
        first: The number of the first of the rounds, where a run goes on after an earlier one.
    """

    cluster: Cluster
    rounds: list[Round]
    ahead_s: float
    first: int = 1
    wrong: list[str] = field(default_factory=list)
    _events: list[Event] = field(default_factory=list)
    _published: int = 0

    def run(self) -> None:
        """Run all rounds, and end everything; raise `RuntimeError` with all that was wrong."""
        stack = self.cluster.stack
        with step(f"start three hosts: {', '.join(HOSTS)}; the clocks of b are {self.ahead_s:g} s ahead"):
            self.cluster.set_clock(self.ahead_s)
            stack.up()
            self._describe()
        with step("release a first version, without a failure"):
            stack.slipway("base", "import", "/models/tiny-llama")
            self._publish()
            report(outcome := self._await_end(1))
            if "promoted" not in outcome:
                raise RuntimeError(f"the first release, without a failure, ended so: {outcome}")
            self.cluster.issue_key()
            for host in self.cluster.urls:
                why = partial(self.cluster.no_answer, host)
                wait_for(lambda why=why: not why(), ANSWERS_S, f"answer of the gateway of host {host}", why)
        with CallersOfTwoHosts(list(self.cluster.urls.values()), self.cluster.headers, MODEL) as callers:
            last = self.first + len(self.rounds) - 1
            for number, planned in enumerate(self.rounds, self.first):
                with step(f"round {number} of {last}: {planned}"):
                    self._run(planned, callers)
        with step("end everything"):
            stack.down()
        if self.wrong:
            raise RuntimeError("\n".join([f"{len(self.wrong)} things did not hold:", *self.wrong]))
        report(f"{len(self.rounds)} rounds, {len(self._events)} events: none lost, none twice; each release ended once")

    def _describe(self) -> None:
        """Print which containers are on which host, and compare them with the compose files."""
        running = self.cluster.stack.containers()
        compose = json.loads(self.cluster.stack.compose("config", "--format", "json"))
        if differ := differences(compose, running, []):
            raise RuntimeError("\n".join(["the containers are not what the compose files say:", *differ]))
        for host in HOSTS:
            names = sorted(service_of(each) for each in running if host_of(service_of(each)) == host)
            report(f"host {host}: {', '.join(names)}")
        seen = clock.ahead_of_here(self.cluster.name_of("registry-b"))
        report(f"the clock of registry-b is {seen} ahead")
        if not seen.may_be(self.ahead_s):
            raise RuntimeError(f"the clock of registry-b is {seen} ahead, not {self.ahead_s:g} s")
        wait_for(lambda: not self.cluster.not_whole(), 120, "three copies of each stream", self.cluster.not_whole)
        report(f"{len(self.cluster.streams())} streams with three copies")

    # -- a round -------------------------------------------------------------------------------------------------------

    def _run(self, planned: Round, callers: CallersOfTwoHosts) -> None:
        if planned.activity == "rollback" and not self._has_previous():
            report("no version to roll back: one is released first, without a failure")
            self._publish()
            self._await_end(self._published)
        wait_for(lambda: not self.cluster.missing_copies(), RECOVERED_S, "copies", self.cluster.missing_copies)
        callers.begin()
        if planned.activity == "release":
            self._release(planned)
        else:
            self._roll_back(planned, callers)
        self._settle()
        answered, failed = sum(callers.answered.values()), list(callers.failed)
        tries = ", ".join(f"{count} x {what}" for what, count in callers.second_tries.most_common())
        report(f"{answered} requests answered, {len(failed)} not; longest gap {callers.longest_gap_s:.1f} s")
        if tries:
            report(f"first or second tries without an answer: {tries}")
        if failed or callers.longest_gap_s > LONGEST_GAP_S:
            unanswered = f"{len(failed)} of {answered + len(failed)} requests got no answer of either gateway"
            self.wrong.append(f"{planned}: {unanswered}, longest gap {callers.longest_gap_s:.1f} s: {failed[:3]}")

    def _release(self, planned: Round) -> None:
        began = time.monotonic()
        if planned.delay_s >= 0:
            self._publish()
            time.sleep(planned.delay_s)
        with WAYS[planned.way](self.cluster.stack, planned.host):
            failed_at = time.monotonic()
            if planned.delay_s < 0:
                self._publish()
            self._stay_away(failed_at)
        outcome = self._await_end(self._published)
        report(f"{outcome} {time.monotonic() - began:.0f} s after the round began")

    def _roll_back(self, planned: Round, callers: CallersOfTwoHosts) -> None:
        active, previous = self._active_and_previous()
        with WAYS[planned.way](self.cluster.stack, planned.host):
            failed_at = time.monotonic()
            led = sum(each.leader == BUS[planned.host] for each in self.cluster.streams())
            ordered_at = time.monotonic()
            refused = self.cluster.order_rollback(active)
            taken_s = time.monotonic() - ordered_at
            self._stay_away(failed_at)
        report(f"host {planned.host} led {led} streams; the order took {taken_s:.1f} s meanwhile: {refused or 'done'}")
        end = time.monotonic() + MOVED_S
        while refused:
            if time.monotonic() > end:
                raise TimeoutError(f"no rollback of {active} within {MOVED_S:g} s after the host was back: {refused}")
            time.sleep(RETRY_S)
            refused = self.cluster.order_rollback(active)
        wait_for(lambda: callers.last == previous, 60, f"answer of {previous}", lambda: f"the last was {callers.last}")
        report(f"{previous} answers all requests since {callers.last_since - ordered_at:.1f} s after the first order")
        done: list[dict[str, Any]] = []

        def completed() -> bool:
            events = of_kind(self.cluster.events(), "rollback.completed")
            done[:] = [
                event["data"]
                for event in events
                if event["environment"] == "production" and name_of(event["data"]["failed"]) == active
            ]
            return bool(done)

        with contextlib.suppress(TimeoutError):  # a log without a leader takes it later
            wait_for(completed, RECOVERED_S, "completed rollback", every_s=RETRY_S)
        if len(done) != 1:
            self.wrong.append(f"{planned}: {len(done)} completed rollbacks of {active}, not one")
        for data in done:
            report(f"{data['mode']}, {data['verdict']}: {rollback_durations(data['timeline'])}")

    def _stay_away(self, failed_at: float) -> None:
        time.sleep(max(0.0, failed_at + AWAY_S - time.monotonic()))

    # -- what must hold again ------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Return when all is healthy and nothing is under way; note what of the event log does not hold."""
        began, cluster = time.monotonic(), self.cluster
        cluster.stack.await_ready()
        wait_for(
            lambda: not cluster.stack.failing_checks(),
            RECOVERED_S,
            "passing health checks",
            cluster.stack.failing_checks,
        )
        wait_for(lambda: not cluster.not_whole(), RECOVERED_S, "three copies of each stream", cluster.not_whole)
        wait_for(lambda: not unfinished(cluster.events()), RECOVERED_S, "end", lambda: unfinished(cluster.events()))
        now = cluster.events()
        self.wrong += findings(self._events, now)
        self.wrong += [f"a dead letter: {letter}" for letter in cluster.dead_letters()]
        self._events = now
        report(f"healthy, with three copies of all, {time.monotonic() - began:.0f} s later; {len(now)} events")
        if alerts := cluster.alerts():
            report(f"open alerts: {'; '.join(alerts)}")

    def _publish(self) -> None:
        self._published += 1
        self.cluster.publish(f"adapter-{self._published}")

    def _await_end(self, count: int) -> str:
        """Return the outcome of the last release when so many have ended."""
        ends: list[Event] = []

        def ended() -> bool:
            ends[:] = of_kind(self.cluster.events(), "release.finished")
            return len(ends) >= count

        wait_for(ended, FINISHED_S, f"end of {count} releases", lambda: f"{len(ends)} have one", every_s=RETRY_S)
        data = ends[-1]["data"]
        return f"version {data['version']} {data['outcome']} ({data.get('reason')})"

    def _has_previous(self) -> bool:
        return bool(self.cluster.route().get("previous"))

    def _active_and_previous(self) -> tuple[str, str]:
        """Return the name of the active target, and how answers of the previous one are marked."""
        route = self.cluster.route()
        return name_of(route["active"]["target"]), f"{MODEL}@v{route['previous']['target']['version']}"


def name_of(target: dict[str, object]) -> str:
    """Return a target's name: `bot.v2.bf16`."""
    return f"{target['model']}.v{target['version']}.{target['variant']}"
