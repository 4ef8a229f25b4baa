"""A release that is walked through fact by fact."""

from datetime import timedelta

from services.registry.domain.record import Input
from services.registry.domain.releases import decide, open_release
from tests.kit import fakes_registry as k


class Walk:
    """A release on its way, and what it said."""

    def __init__(self, policy=None, variants=("int8",), **more):
        self.now = k.START
        opened = k.opened(policy=policy or k.policy(), variants=variants, **more)
        self.release = open_release(opened, cause_id="e0", now=self.now).release
        self.count = 0

    def handle(self, *facts):
        """Feed facts, ten seconds apart; give what they caused as {key: data}."""
        emitted = {}
        for fact in facts:
            self.count += 1
            self.now += timedelta(seconds=10)
            decision = decide(self.release, Input(f"e{self.count}", self.now, fact), self.now)
            self.release = decision.release
            emitted |= {k.key_of(entry): entry.data for entry in k.without_progress(decision.publish)}
        return emitted

    def to_staging(self, turn=None):
        quantised = [k.quantised(variant) for variant in self.release.opened.variants]
        self.handle(k.merged(), *quantised, k.written(), turn or k.turn())
        return self

    def to_verdict(self, turn=None):
        self.to_staging(turn)
        for variant in self.release.opened.variants:
            self.handle(k.staged(variant))
            self.last = self.handle(k.benchmarked(variant))
        return self

    def to_rehearsed(self, **changes):
        self.last = self.to_verdict().handle(k.rehearsed(of=self.release.policy, **changes))
        return self

    @property
    def comparison(self):
        return self.release.progress.comparison

    @property
    def end(self):
        return self.release.finished


FOUR = ("bf16", "int8", "gptq-int4", "awq-int4")
