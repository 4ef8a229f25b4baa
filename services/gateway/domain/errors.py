"""Errors for callers, in the format of the OpenAI API."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from contracts.vocabulary import Environment
from decisions.access.api_keys import PREFIX, KeyProblem
from decisions.evidence.attribution import ErrorKind

_MESSAGE_CHARS = 1_000
_PARAM_CHARS = 200

ErrorType = Literal[
    "invalid_request_error",
    "permission_error",
    "rate_limit_error",
    "insufficient_quota",
    "server_error",
    "upstream_error",
]


@dataclass(frozen=True)
class Problem:
    """An error for the caller: an HTTP status and OpenAI's four fields."""

    status: int
    message: str
    type: ErrorType = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Return the JSON body; long texts are cut, and lone surrogates replaced."""
        message = self.message[:_MESSAGE_CHARS].encode(errors="replace").decode()
        param = self.param[:_PARAM_CHARS].encode(errors="replace").decode() if self.param is not None else None
        return {"error": {"message": message, "type": self.type, "param": param, "code": self.code}}


class RequestRejected(Exception):  # noqa: N818 - it is a response to the caller
    """Rejects a request; `problem` is the response."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def bad_request(message: str, param: str | None = None, code: str = "invalid_value") -> RequestRejected:
    """Return the rejection (400) of a request that the caller must change."""
    return RequestRejected(Problem(400, message, param=param, code=code))


def model_not_found(name: str, near: Sequence[str] = ()) -> Problem:
    """Return the problem (404) for a model without a route; `near` are suggested names."""
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    return Problem(404, f"The model {name[:200]!r} does not exist here.{meant}", param="model", code="model_not_found")


def version_not_found(model: str, version: int, names: Sequence[str], *, quarantined: bool) -> Problem:
    """Return the problem (404) for an unavailable pinned version, with the available names."""
    why = "is quarantined: it was taken out of traffic" if quarantined else "is not loaded for production here"
    there = f"; ask for {' or '.join(names)}" if names else ""
    return Problem(404, f"{model}@v{version} {why}{there}.", param="model", code="model_not_found")


def no_chat_template(model: str) -> Problem:
    """Return the problem (400) for a conversation with a model without chat template."""
    message = f"{model} has no chat template; use /v1/completions, with the whole prompt as text."
    return Problem(400, message, param="messages", code="no_chat_template")


def nothing_serves(model: str) -> Problem:
    """Return the problem (503) for a model without a serving target."""
    message = f"No version of {model} is serving now; try again soon."
    return Problem(503, message, "server_error", code="no_serving_target", headers={"Retry-After": "2"})


def too_many_requests(limit: int) -> Problem:
    """Return the problem (429) for a request above the limit of requests in flight."""
    return _too_many(f"{limit} requests are in flight, which is the limit; try again soon.")


def too_many_bodies(limit: int) -> Problem:
    """Return the problem (429) for a body above the limit of all bodies being received."""
    return _too_many(f"More than {limit} bytes of bodies are arriving, which is the limit; try again soon.")


def too_many_of_caller(own: int, limit: int, unit: str) -> Problem:
    """Return the problem (429) for a caller with much in flight, if the free capacity is reserved for others.

    Args:
        own: The caller's amount in flight.
        limit: The limit over all callers.
        unit: The unit of both: `requests`, or `bytes of requests`.
    """
    return _too_many(
        f"You have {own} of the {limit} {unit} in flight that are allowed in all, and the rest is kept for callers "
        "with few; try again when a request of yours has ended."
    )


def too_many_large_bodies(limit: int, size: int) -> Problem:
    """Return the problem (429) for a caller with too many waiting large bodies."""
    return _too_many(
        f"{limit} bodies of yours with more than {size} bytes wait to be processed, which is the limit; try again when "
        "a request of yours has been answered, and send fewer at the same time."
    )


def _too_many(message: str) -> Problem:
    return Problem(429, message, "rate_limit_error", code="too_many_requests", headers={"Retry-After": "1"})


_KEY_SENTENCES: Mapping[KeyProblem, str] = {
    "no_key": f"No API key was presented: send `Authorization: Bearer {PREFIX}-…`, given once; ask the owner of this "
    "installation for one (slipway keys issue).",
    "invalid_key": f"The API key is not known here: keys of this installation begin with `{PREFIX}-`; ask its owner "
    "for one (slipway keys issue), and look for an older one in the environment (OPENAI_API_KEY).",
    "key_revoked": "The API key was revoked; ask for another one.",
    "key_expired": "The API key has expired; ask for another one.",
}


def key_refused(problem: KeyProblem, environment: Environment) -> Problem:
    """Return the problem (401 or 403) for an invalid key."""
    if problem == "environment_not_allowed":
        message = f"The API key does not count in {environment}; ask for one that does."
        return Problem(403, message, "permission_error", code=problem)
    code = problem if problem in {"key_revoked", "key_expired"} else "invalid_api_key"
    return Problem(401, _KEY_SENTENCES[problem], code=code, headers={"WWW-Authenticate": "Bearer"})


def keys_unknown() -> Problem:
    """Return the problem (503) for a gateway that has not read all keys and revocations yet."""
    message = "The gateway has not read the keys of this installation yet; try again soon."
    return Problem(503, message, "server_error", code="keys_unknown", headers={"Retry-After": "2"})


def key_limit_reached(kind: str, limit: int, wait_s: float, headers: Mapping[str, str]) -> Problem:
    """Return the problem (429) for a request above a limit per minute of its key."""
    message = f"The API key may have {limit} {kind}; try again in {math.ceil(wait_s)} s."
    retry = {"Retry-After": str(max(1, math.ceil(wait_s)))}
    return Problem(429, message, "rate_limit_error", code="rate_limit_exceeded", headers={**headers, **retry})


def budget_used_up(budget: int, used: int, wait_s: float, team: str | None) -> Problem:
    """Return the problem (429 `insufficient_quota`) for a request above the monthly budget of key or team."""
    whose, command = (f"All keys of the team {team} together", "team set") if team else ("The API key", "issue")
    message = (
        f"{whose} may use {budget} tokens in a month; {used} are used, and requests in progress may use the rest. "
        f"The next month begins at 00:00 UTC on its first day; ask for another budget (slipway keys {command})."
    )
    headers = {"Retry-After": str(max(1, math.ceil(wait_s)))}
    return Problem(429, message, "insufficient_quota", code="insufficient_quota", headers=headers)


UPSTREAM_STATUS: Mapping[ErrorKind, int] = {
    "no_first_token": 504,
    "deadline_exceeded": 504,
    "template_failed": 500,
    "endpoint_unreachable": 502,
    "not_loaded": 502,
    "engine_dead": 502,
    "engine_failed": 502,
}


def body_refused(targets: Sequence[str], wait_s: float) -> Problem:
    """Return the problem (503) for a request body that was in flight when an engine died."""
    seconds = max(1, math.ceil(wait_s))
    message = (
        f"An engine of {' and of '.join(targets)} died while it had this request, so the request is refused for "
        f"another {seconds} s. Change the request, or send it again after that time."
    )
    return Problem(503, message, "server_error", code="body_refused", headers={"Retry-After": str(seconds)})


def upstream_failed(code: ErrorKind, message: str) -> Problem:
    """Return the problem of a failed answer: 400 for a rejection, else the status in `UPSTREAM_STATUS`."""
    if code in {"bad_request", "template_refused"}:
        return Problem(400, message, code="invalid_value" if code == "bad_request" else code)
    kind: ErrorType = "server_error" if code == "template_failed" else "upstream_error"
    headers = {} if code == "template_failed" else {"Retry-After": "1"}
    return Problem(UPSTREAM_STATUS.get(code, 502), message, kind, code=code, headers=headers)
