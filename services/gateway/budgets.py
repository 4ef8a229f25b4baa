"""What keys used this month: what all gateways have recorded, and what this process has not recorded yet."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from contracts.api_usage import MonthlyUsage
from contracts.teams import TeamName
from decisions.access.token_budgets import fits, is_forgotten, month_of
from shared.runtime.clock import Clock
from shared.storage.kv import Snapshot

OnElsewhere = Callable[[str, int, int], None]
"""Takes an account, and the tokens and requests that other processes used of it."""


@dataclass
class _Account:
    """One account.

    Attributes:
        recorded: the record as it was read last; None before.
        revision, followed: of that record, and of the one that the bus sent last.
        tokens, requests: used here and not recorded yet.
        written: tokens and requests of the record that this process has added.
        elsewhere: those that others have added, as far as they are reported; None until the bucket has been read.
        held: what requests in progress may still take.
    """

    recorded: MonthlyUsage | None = None
    revision: int = 0
    followed: int = 0
    tokens: int = 0
    requests: int = 0
    held: int = 0
    written: tuple[int, int] = (0, 0)
    elsewhere: tuple[int, int] | None = None


@dataclass(frozen=True)
class Budget:
    """What an account may use in a month.

    Attributes:
        account: under which name usage is counted.
        tokens: the most tokens; None for no limit.
        team: the team whose keys share it; None for a key's own.
    """

    account: str
    tokens: int | None
    team: TeamName | None = None


class Budgets:
    """Usage by account, for this month.

    Args:
        clock: says which month it is.
        process: the id of this process, which signs its additions.
    """

    def __init__(self, clock: Clock, process: str) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._mark = 0
        self._cleared = ""
        self._on_elsewhere: OnElsewhere = _ignore
        self._is_complete = False
        self.process = process

    @property
    def month(self) -> str:
        """Return the month of now."""
        return month_of(self._clock.now())

    def used(self, account: str) -> int:
        """Return the tokens that an account used this month, as far as they are known here.

        A record of a later month counts, too: a clock that went back empties nothing.
        """
        state = self._accounts.get(account)
        if state is None:
            return 0
        recorded = state.recorded.tokens if state.recorded and state.recorded.month >= self.month else 0
        return recorded + state.tokens

    def is_admitted(self, budget: Budget, most: int) -> bool:
        """Return whether a request that may take so many tokens is admitted by a budget."""
        used, held = self.used(budget.account), self.held(budget.account)
        return budget.tokens is None or fits(budget.tokens, used, held, most)

    def held(self, account: str) -> int:
        """Return the tokens that requests in progress may still take."""
        state = self._accounts.get(account)
        return state.held if state else 0

    def hold(self, account: str, tokens: int) -> None:
        """Hold so many tokens more, or less."""
        self._of(account).held += tokens

    def add(self, account: str, *, tokens: int = 0, requests: int = 0) -> None:
        """Count what was used here."""
        state = self._of(account)
        state.tokens += tokens
        state.requests += requests

    def follow_elsewhere(self, on_elsewhere: OnElsewhere) -> None:
        """Call this from now on with what other processes used, as soon as they have recorded it."""
        self._on_elsewhere = on_elsewhere

    def unrecorded(self) -> Mapping[str, tuple[int, int]]:
        """Return the tokens and requests that are to be recorded, by account."""
        self._clear()
        return {
            name: (state.tokens, state.requests)
            for name, state in self._accounts.items()
            if state.tokens or state.requests
        }

    def next_record(self, account: str, before: MonthlyUsage | None, tokens: int, requests: int) -> MonthlyUsage:
        """Return the record with an addition; that of an earlier month begins again."""
        self._mark += 1
        month = max(self.month, before.month if before else "")
        if before is None or before.month < month:
            before = MonthlyUsage(account=account, month=month)
        changes = {"tokens": before.tokens + tokens, "requests": before.requests + requests}
        return before.model_copy(update={**changes, "writer": self.process, "mark": self._mark})

    def note_recorded(self, written: MonthlyUsage, revision: int, tokens: int, requests: int) -> None:
        """Note that an addition is in the record."""
        state = self._of(written.account)
        state.tokens -= tokens
        state.requests -= requests
        self._take(state, written, revision, known=state.revision)
        state.written = (state.written[0] + tokens, state.written[1] + requests)
        self._note_elsewhere(written.account, state)

    async def apply(self, key: str, record: MonthlyUsage, revision: int) -> None:
        """Take a record from the bus; of one that this process wrote, `note_recorded` knows what is its own."""
        if record.account == key:
            state = self._of(key)
            self._take(state, record, revision, known=state.followed)
            state.followed = revision
            if record.writer != self.process:
                self._note_elsewhere(key, state)

    async def note_bucket(self, _bucket: Snapshot) -> None:
        """Note that the bucket was read: what is recorded from now on is used now."""
        self._is_complete = True

    def forgotten(self, now: datetime) -> list[tuple[str, int]]:
        """Return the accounts that have used nothing for months, each with the revision of its record."""
        return [
            (name, state.revision)
            for name, state in self._accounts.items()
            if state.recorded is not None
            and not (state.tokens or state.requests or state.held)
            and is_forgotten(state.recorded.month, min(now, self._clock.now()))
        ]

    def note_removed(self, account: str, revision: int) -> None:
        """Note that the record of an account was removed; one that was written since counts."""
        state = self._accounts.get(account)
        if state is not None and state.revision <= revision and not (state.tokens or state.requests or state.held):
            del self._accounts[account]

    def _clear(self) -> None:
        """Drop, once a month, accounts that are not in use and have no record."""
        month = self.month
        if month == self._cleared:
            return
        self._cleared = month
        self._accounts = {
            name: state
            for name, state in self._accounts.items()
            if state.tokens or state.requests or state.held or state.recorded
        }

    @staticmethod
    def _take(state: _Account, record: MonthlyUsage, revision: int, *, known: int) -> None:
        """Take a record; one before a `known` revision is of a restored bucket: what is known of it counts no more."""
        if revision < known:
            state.written, state.elsewhere = (0, 0), None
            state.recorded, state.revision, state.followed = record, revision, revision
        if revision <= state.revision:
            return
        if state.recorded is not None and state.recorded.month != record.month:  # it began again
            state.written = state.elsewhere = (0, 0)
        state.recorded, state.revision = record, revision

    def _note_elsewhere(self, account: str, state: _Account) -> None:
        """Report what others have added since the last time; of what was there at the start, nothing."""
        record, before = state.recorded, state.elsewhere
        if record is None:
            return
        tokens, requests = record.tokens - state.written[0], record.requests - state.written[1]
        if before is not None:  # an own addition that is not noted yet counts as another's until the next one
            tokens, requests = max(tokens, before[0]), max(requests, before[1])
            if (tokens, requests) != before:
                self._on_elsewhere(account, tokens - before[0], requests - before[1])
        state.elsewhere = (tokens, requests)

    def _of(self, account: str) -> _Account:
        state = self._accounts.get(account)
        if state is None:
            state = self._accounts[account] = _Account(elsewhere=(0, 0) if self._is_complete else None)
        return state


def _ignore(_account: str, _tokens: int, _requests: int) -> None:
    """Do nothing."""
