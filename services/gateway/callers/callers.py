"""Authenticates callers by API key, and enforces the limits of keys and teams."""

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
    """The identity of a caller, by the presented key.

    Attributes:
        key: the key's record.
        teams: the models and budgets of teams.
    """

    key: ApiKey
    teams: TeamTable

    @property
    def account(self) -> str:
        """Return the key's name in usage records: its id."""
        return self.key.key_id

    def opens(self, model: str) -> bool:
        """Return whether the key opens a model; a team's key opens at most the team's models."""
        team = self.key.team
        return opens_model(self.key, model) and (team is None or self.teams.opens(team, model))

    @property
    def holder(self) -> str:
        """Return the party charged for requests in flight: the key's team, else the key's name."""
        if self.key.team is not None:
            return f"team {self.key.team}"
        return f"name {self.key.name}"

    @property
    def names(self) -> frozenset[str]:
        """Return the caller's names for a canary's `only_for`: `key:…` and `team:…`."""
        return frozenset((f"key:{self.key.name}", f"team:{self.key.team}" if self.key.team is not None else ""))

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """Return the budgets that count the caller's requests: the key's, and its team's."""
        own, team = Budget(self.account, self.key.limits.tokens_per_month), self.key.team
        return (own,) if team is None else (own, self.teams.budget(team))

    @property
    def pseudonym(self) -> str:
        """Return the account's pseudonym in telemetry, the same at all gateways."""
        return pseudonym(self.account)

    @property
    def holder_pseudonym(self) -> str:
        """Return the holder's pseudonym in telemetry."""
        return pseudonym(self.holder)

    @property
    def cache_salt(self) -> str | None:
        """Return the team's prefix-cache salt, so that teams share no cached prefixes."""
        return self.teams.cache_salt(self.key.team)


@dataclass
class Usage:
    """A key's limits per minute and what remains of them, as known to this process."""

    limits: KeyLimits
    requests: Allowance | None
    tokens: Allowance | None


class Callers:
    """Authenticates callers and counts their usage.

    Args:
        keys: the known keys.
        clock: its time for expiry, its monotonic seconds for allowances.
        budgets: this month's usage, by all processes.
        teams: the models and budgets of teams.
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
            RequestRejected: 401 without a valid key, 403 if the key is not valid in this environment, 503 if the
                keys are not known yet.
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
        """Count a request against its key's limits until its end, and yield its usage.

        Raises:
            RequestRejected: 429 above a limit of the key or its team.
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
        """Check monthly budgets for a request of at most `most` tokens.

        Raises:
            RequestRejected: 429 if usage and held tokens leave too few.
        """
        for budget in budgets:
            if budget.tokens is None or self._budgets.is_admitted(budget, most):
                continue
            used = self._budgets.used(budget.account)
            wait_s = seconds_to_next_month(self.clock.now()) if used >= budget.tokens else 1.0
            raise RequestRejected(errors.budget_used_up(budget.tokens, used, wait_s, budget.team))

    def note_elsewhere(self, account: str, tokens: int, requests: int) -> None:
        """Count usage by other processes against a key's limits."""
        record = self._keys.get(account)
        usage = self._usage.get(account) if record is None else self._usage_of(account, record.limits)
        if usage is None:
            return
        now_s = self.clock.monotonic()
        usage.requests = usage.requests.take_elsewhere(requests, now_s) if usage.requests else None
        usage.tokens = usage.tokens.take_elsewhere(tokens, now_s) if usage.tokens else None

    def _usage_of(self, account: str, limits: KeyLimits) -> Usage:
        """Return the usage of a key, adjusted to its current limits."""
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
        """Return `x-ratelimit-*` headers: limits per minute, remainders, seconds until full."""
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
    """Return the allowance after a change of its limit; None without a limit."""
    if limit is None:
        return None
    return Allowance.filled(limit, now_s) if allowance is None else allowance.resized(limit, now_s)


class Spending:
    """The usage of a key's limits by one request.

    At dispatch the maximum tokens of prompt and answers are held; the prompt's are corrected when the engine reports
    them; at the end the actual usage replaces the hold.
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
        """Return the prompt's tokens, reported by the engine or estimated; 0 before dispatch."""
        return self._prompt

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the headers with the remaining limits."""
        return self._callers.headers(self._usage)

    def hold(self, prompt: int, answers: int, expected: int) -> None:
        """Hold the maximum tokens that the request may use.

        Args:
            prompt: maximum tokens of the prompts.
            answers: maximum tokens of the answers.
            expected: estimated tokens of the prompts, used until the engine reports them.

        Raises:
            RequestRejected: 429 if fewer are available; a request above the whole limit is admitted when the
                limit is fully available.
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
        """Replace the prompt's estimate by the engine's count; 0 (not reported) changes nothing."""
        if prompt <= 0 or self._settled:
            return
        self._prompt = prompt
        if self._held:
            self._hold(prompt + self._answers - self._held)

    def settle(self, tokens: int) -> None:
        """Count the request's tokens and release its hold; idempotent."""
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
