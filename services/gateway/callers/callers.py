"""Admits callers by their keys: the scope of a key, and the use of its limits."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from contracts.api_keys import ApiKey, KeyLimits
from contracts.vocabulary import Environment
from decisions.access.api_keys import assess_key, opens_model, parse_key, pseudonym
from decisions.access.token_budgets import seconds_to_next_month
from services.gateway.callers.budgets import Budget, Budgets
from services.gateway.callers.tables import KeyTable, TeamTable
from services.gateway.domain import errors
from services.gateway.domain.errors import RequestRejected
from services.gateway.domain.request_rates import Allowance
from shared.runtime.clock import Clock

BEARER = "bearer "


@dataclass(frozen=True)
class Caller:
    """Who asks: the key that was presented.

    Attributes:
        key: its record.
        teams: which models belong to the team of a key.
    """

    key: ApiKey
    teams: TeamTable

    @property
    def account(self) -> str:
        """Return the name under which the usage of the key is counted."""
        return self.key.key_id

    def opens(self, model: str) -> bool:
        """Return whether the key opens a model; a team's key opens at most the team's models."""
        team = self.key.team
        return opens_model(self.key, model) and (team is None or self.teams.opens(team, model))

    @property
    def holder(self) -> str:
        """Return the holder of a caller's requests in flight: its team, or without a team the name of its keys."""
        if self.key.team is not None:
            return f"team {self.key.team}"
        return f"name {self.key.name}"

    @property
    def names(self) -> frozenset[str]:
        """Return the names by which a canary can be chosen for this caller."""
        return frozenset((f"key:{self.key.name}", f"team:{self.key.team}" if self.key.team is not None else ""))

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """Return the budgets that count its requests: its own, and its team's."""
        own, team = Budget(self.account, self.key.limits.tokens_per_month), self.key.team
        return (own,) if team is None else (own, self.teams.budget(team))

    @property
    def pseudonym(self) -> str:
        """Return the name of the account in telemetry: the same at all gateways, and no key or person."""
        return pseudonym(self.account)

    @property
    def holder_pseudonym(self) -> str:
        """Return the name of the holder in telemetry."""
        return pseudonym(self.holder)

    @property
    def cache_salt(self) -> str | None:
        """Return the cache salt of its team, which separates cached prefixes of teams."""
        return self.teams.cache_salt(self.key.team)


@dataclass
class Usage:
    """The use of a key's bearer, and the rest of its limits as known to this process."""

    limits: KeyLimits
    requests: Allowance | None
    tokens: Allowance | None


class Callers:
    """Authenticates callers and counts their use.

    Args:
        keys: the keys that are known.
        clock: expiry by its time, allowances by its monotonic seconds.
        budgets: what was used this month, here and by other processes.
        teams: which models belong to which team.
    """

    def __init__(self, keys: KeyTable, clock: Clock, budgets: Budgets, *, teams: TeamTable) -> None:
        self._teams = teams
        self._keys = keys
        self.clock = clock
        self._budgets = budgets
        self._usage: dict[str, Usage] = {}
        budgets.follow_elsewhere(self.note_elsewhere)

    def authenticate(self, authorization: Sequence[str], environment: Environment) -> Caller:
        """Return the caller, from the values of the header `Authorization`.

        Raises:
            RequestRejected: 401 without a key that counts, 403 if it does not count in this environment.
        """
        value = authorization[0] if len(authorization) == 1 else ""
        text = value[len(BEARER) :].strip() if value[: len(BEARER)].lower() == BEARER else ""
        presented = parse_key(text)
        record = self._keys.get(presented.key_id) if presented else None
        if presented is not None and record is None and not self._keys.is_complete:
            raise RequestRejected(errors.keys_unknown())
        is_foreign = presented is None and text != ""
        problem = "invalid_key" if is_foreign else assess_key(presented, record, environment, self.clock.now())
        if record is None or problem is not None:
            raise RequestRejected(errors.key_refused(problem or "invalid_key", environment))
        return Caller(record, self._teams)

    @contextlib.contextmanager
    def admit(self, caller: Caller) -> Iterator["Spending"]:
        """Count a request from its admission to its end, and yield its use of the key's limits.

        Raises:
            RequestRejected: 429 above a limit of the key.
        """
        usage, now_s = self._usage_of(caller.account, caller.key.limits), self.clock.monotonic()
        self._check(usage, now_s)
        budgets = caller.budgets
        self.check_budgets(budgets, 1)
        usage.requests = usage.requests.take(1, now_s) if usage.requests else None
        for budget in budgets:
            self._budgets.add(budget.account, requests=1)
        spending = Spending(self, usage, self._budgets, budgets)
        try:
            yield spending
        finally:
            spending.settle(0)

    def check_budgets(self, budgets: Sequence[Budget], most: int) -> None:
        """Check budgets of the month.

        Raises:
            RequestRejected: 429 if one is used up, or if requests in progress may use it up.
        """
        for budget in budgets:
            if budget.tokens is None or self._budgets.is_admitted(budget, most):
                continue
            used = self._budgets.used(budget.account)
            wait_s = seconds_to_next_month(self.clock.now()) if used >= budget.tokens else 1.0
            raise RequestRejected(errors.budget_used_up(budget.tokens, used, wait_s, budget.team))

    def note_elsewhere(self, account: str, tokens: int, requests: int) -> None:
        """Count other processes' use of a key's limits."""
        record = self._keys.get(account)
        usage = self._usage.get(account) if record is None else self._usage_of(account, record.limits)
        if usage is None:
            return
        now_s = self.clock.monotonic()
        usage.requests = usage.requests.take_elsewhere(requests, now_s) if usage.requests else None
        usage.tokens = usage.tokens.take_elsewhere(tokens, now_s) if usage.tokens else None

    def _usage_of(self, account: str, limits: KeyLimits) -> Usage:
        """Return the use of a key; its allowances follow changes of its limits."""
        now_s = self.clock.monotonic()
        usage = self._usage.get(account)
        if usage is None:
            usage = self._usage[account] = Usage(KeyLimits(), None, None)
        if usage.limits != limits:
            usage.limits = limits
            usage.requests = _changed(usage.requests, limits.requests_per_minute, now_s)
            usage.tokens = _changed(usage.tokens, limits.tokens_per_minute, now_s)
        return usage

    def _check(self, usage: Usage, now_s: float) -> None:
        limits = usage.limits
        for kind, allowance, limit in (
            ("requests per minute", usage.requests, limits.requests_per_minute),
            ("tokens per minute", usage.tokens, limits.tokens_per_minute),
        ):
            if allowance is not None and limit is not None and (wait_s := allowance.wait_s(1, now_s)) > 0:
                raise RequestRejected(errors.key_limit_reached(kind, limit, wait_s, self.headers(usage)))

    def headers(self, usage: Usage) -> dict[str, str]:
        """Return the headers with the limits per minute, the rest, and the seconds until a full refill."""
        now_s, headers = self.clock.monotonic(), dict[str, str]()
        for name, allowance, limit in (
            ("requests", usage.requests, usage.limits.requests_per_minute),
            ("tokens", usage.tokens, usage.limits.tokens_per_minute),
        ):
            if allowance is None or limit is None:
                continue
            headers[f"x-ratelimit-limit-{name}"] = str(limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(max(0, int(allowance.available(now_s))))
            headers[f"x-ratelimit-reset-{name}"] = f"{allowance.wait_s(allowance.per_minute, now_s):.3f}s"
        return headers


def _changed(allowance: Allowance | None, limit: int | None, now_s: float) -> Allowance | None:
    """Return the allowance of a limit; None without one."""
    if limit is None:
        return None
    return Allowance.filled(limit, now_s) if allowance is None else allowance.resized(limit, now_s)


class Spending:
    """The share of its key's limits that one request takes.

    Tokens are held when the request is dispatched: those of its prompt, estimated, and the most that its answers may
    have. The prompt is corrected when the engine has read it, and the rest is settled at the end.
    """

    def __init__(self, callers: Callers, usage: Usage, budgets: Budgets, counted_in: Sequence[Budget]) -> None:
        self._callers = callers
        self._budgets = budgets
        self._counted_in = counted_in
        self._usage = usage
        self._prompt = self._answers = self._held = 0
        self._settled = False

    @property
    def prompt(self) -> int:
        """Return the tokens of the prompt: as the engine reported them, else an estimate; 0 before the dispatch."""
        return self._prompt

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the headers with the rest of the limits."""
        return self._callers.headers(self._usage)

    def hold(self, prompt: int, answers: int, expected: int) -> None:
        """Hold the most tokens that a request may take.

        Args:
            prompt: most tokens of its prompts.
            answers: most tokens of its answers.
            expected: tokens of its prompts if the engine never says how many.

        Raises:
            RequestRejected: 429 if less is available than this; a request that may take more than the limit is admitted
                when all of it is available.
        """
        usage, now_s = self._usage, self._callers.clock.monotonic()
        self._callers.check_budgets(self._counted_in, prompt + answers)
        limit = usage.limits.tokens_per_minute
        if usage.tokens is not None and limit is not None:
            wait_s = usage.tokens.wait_s(prompt + answers, now_s)
            if wait_s > 0:
                problem = errors.key_limit_reached("tokens per minute", limit, wait_s, self.headers)
                raise RequestRejected(problem)
        self._hold(prompt + answers)
        self._prompt, self._answers = expected, answers

    def correct(self, prompt: int) -> None:
        """Take the number of the prompt's tokens that the engine reported; 0 if it reported none."""
        if prompt <= 0 or self._settled:
            return
        self._prompt = prompt
        if self._held:
            self._hold(prompt + self._answers - self._held)

    def settle(self, tokens: int) -> None:
        """Count the request's use, once, and release its hold; its key's limits may have changed."""
        if self._settled:
            return
        self._settled = True
        self._hold(-self._held)
        if self._prompt or self._answers:
            for budget in self._counted_in:
                self._budgets.add(budget.account, tokens=tokens)
        if self._usage.tokens is not None:
            self._usage.tokens = self._usage.tokens.take(tokens, self._callers.clock.monotonic())

    def _hold(self, tokens: int) -> None:
        if self._usage.tokens is not None and tokens:
            self._usage.tokens = self._usage.tokens.hold(tokens, self._callers.clock.monotonic())
        for budget in self._counted_in:
            self._budgets.hold(budget.account, tokens)
        self._held += tokens
