"""Monthly usage of keys and teams: recorded on the bus by all gateways, plus this process's unrecorded usage."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from contracts.api_usage import MonthlyUsage
from contracts.vocabulary import IdentityName
from decisions.access.token_budgets import fits, month_of
from services.gateway.domain.request_rates import Allowance
from shared.runtime.clock import Clock
from shared.storage.kv import Snapshot

_MOST_CALLERS = 1_000
OnElsewhere = Callable[[str, int, int], None]
"""Called with an account, and the tokens and requests that other processes used."""


@dataclass
class _Account:
    """Usage of one account.

    Attributes:
        recorded: the last known record; None before.
        revision, followed: revisions of `recorded`, and of the last record from the bus.
        tokens, requests: used by this process and not recorded yet.
        held: tokens that requests in progress may still use.
    """

    recorded: MonthlyUsage | None = None
    revision: int = 0
    followed: int = 0
    tokens: int = 0
    requests: int = 0
    held: int = 0


@dataclass(frozen=True)
class Budget:
    """The monthly limit of an account.

    Attributes:
        account: the name in usage records.
        tokens: the maximum; None for no limit.
        team: the team whose keys share it; None for a key's own.
    """

    account: str
    tokens: int | None
    team: IdentityName | None = None


class Budgets:
    """Usage by account, for this month.

    Args:
        clock: determines the month.
        process: this process's id, written as the writer of records.
    """

    def __init__(self, clock: Clock, process: str) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._cleared = ""
        self._on_elsewhere: OnElsewhere = _ignore
        self._is_complete = False
        self.process = process

    @property
    def month(self) -> str:
        """Return the current month."""
        return month_of(self._clock.now())

    def used(self, account: str) -> int:
        """Return the tokens that an account used this month, as known to this process.

        A record of a later month counts, too: a clock set back resets nothing.
        """
        state = self._accounts.get(account)
        if state is None:
            return 0
        recorded = state.recorded.tokens if state.recorded and state.recorded.month >= self.month else 0
        return recorded + state.tokens

    def is_admitted(self, budget: Budget, most: int) -> bool:
        """Return whether a budget admits a request for at most `most` tokens."""
        used, held = self.used(budget.account), self.held(budget.account)
        return budget.tokens is None or fits(budget.tokens, used, held, most)

    def held(self, account: str) -> int:
        """Return the tokens held for requests in progress."""
        state = self._accounts.get(account)
        return state.held if state else 0

    def hold(self, account: str, tokens: int) -> None:
        """Change the held tokens by `tokens`."""
        self._of(account).held += tokens

    def add(self, account: str, *, tokens: int = 0, requests: int = 0) -> None:
        """Count usage by this process."""
        state = self._of(account)
        state.tokens += tokens
        state.requests += requests

    def follow_elsewhere(self, on_elsewhere: OnElsewhere) -> None:
        """Set the callback for usage by other processes."""
        self._on_elsewhere = on_elsewhere

    def unrecorded(self) -> Mapping[str, tuple[int, int]]:
        """Return the unrecorded tokens and requests, by account."""
        self._clear()
        return {
            name: (state.tokens, state.requests)
            for name, state in self._accounts.items()
            if state.tokens or state.requests
        }

    def next_record(self, account: str, before: MonthlyUsage | None, tokens: int, requests: int) -> MonthlyUsage:
        """Return the record with an addition; a record of an earlier month restarts at 0."""
        month = max(self.month, before.month if before else "")
        if before is None or before.month < month:
            before = MonthlyUsage(account=account, month=month)
        changes = {"tokens": before.tokens + tokens, "requests": before.requests + requests}
        return before.model_copy(update={**changes, "writer": self.process})

    def note_recorded(self, written: MonthlyUsage, revision: int, tokens: int, requests: int) -> None:
        """Subtract recorded usage from the unrecorded usage."""
        state = self._of(written.account)
        state.tokens -= tokens
        state.requests -= requests
        self._take(state, written, revision, own=(tokens, requests))

    async def apply(self, key: str, record: MonthlyUsage, revision: int) -> None:
        """Apply a record from the bus, unless this process wrote it: `note_recorded` has counted its usage.

        A lower revision is of a restored bucket; it refunds no usage to the limits per minute.
        """
        if record.account != key:
            return
        state = self._of(key)
        if revision < state.followed:
            state.recorded, state.revision = record, revision
        elif record.writer != self.process:
            self._take(state, record, revision)
        state.followed = revision

    async def note_bucket(self, _bucket: Snapshot) -> None:
        """Mark the bucket as read: later records are new usage."""
        self._is_complete = True

    def _clear(self) -> None:
        """Drop unused accounts, once a month."""
        month = self.month
        if month == self._cleared:
            return
        self._cleared = month
        self._accounts = {
            name: state
            for name, state in self._accounts.items()
            if state.tokens or state.requests or state.held or (state.recorded and state.recorded.month >= month)
        }

    def _take(self, state: _Account, record: MonthlyUsage, revision: int, *, own: tuple[int, int] = (0, 0)) -> None:
        """Update from a record; report usage that other processes added since startup."""
        if revision <= state.revision:
            return
        before = state.recorded
        if before is not None or self._is_complete:
            known = (before.tokens, before.requests) if before and before.month == record.month else (0, 0)
            tokens, requests = record.tokens - known[0] - own[0], record.requests - known[1] - own[1]
            if tokens > 0 or requests > 0:
                self._on_elsewhere(record.account, max(0, tokens), max(0, requests))
        state.recorded, state.revision = record, revision

    def _of(self, account: str) -> _Account:
        return self._accounts.setdefault(account, _Account())


def _ignore(_account: str, _tokens: int, _requests: int) -> None:
    """Ignore usage until `follow_elsewhere`."""


@dataclass
class RescueBudgets:
    """The remaining rescues (retries on the fallback) of one process, in total and per caller.

    Attributes:
        per_minute: maximum rescues per minute; 0 for none.
        per_caller: maximum rescues per caller and minute.
        workers: processes that share both limits, at least one rescue each.
    """

    clock: Clock
    per_minute: int
    per_caller: int
    workers: int = 1
    _all: Allowance | None = None
    _callers: dict[str, Allowance] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reduce the limits to this process's share."""
        self.per_minute, self.per_caller = (
            max(1, most // self.workers) if most else 0 for most in (self.per_minute, self.per_caller)
        )

    def admit(self, account: str) -> bool:
        """Take one rescue for a caller; return False, taking nothing, if a limit is reached."""
        if self.per_minute == 0 or self.per_caller == 0:
            return False
        now_s = self.clock.monotonic()
        total = self._all or Allowance.filled(self.per_minute, now_s)
        own = self._callers.get(account) or Allowance.filled(self.per_caller, now_s)
        if total.available(now_s) < 1 or own.available(now_s) < 1:
            return False
        if len(self._callers) >= _MOST_CALLERS:
            full = self.per_caller
            self._callers = {name: left for name, left in self._callers.items() if left.available(now_s) < full}
        self._all, self._callers[account] = total.take(1, now_s), own.take(1, now_s)
        return True
