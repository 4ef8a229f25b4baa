"""Measures a request while it is answered: times, tokens and texts, then its telemetry record."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from contracts.facts import Inference
from contracts.facts.watch import InterTokenLatency
from contracts.trigger_metrics import CANCELLED, TriggerMetric
from contracts.vocabulary import Environment, Party
from decisions.evidence.attribution import ErrorKind
from decisions.rollback.drills import change_record
from decisions.serving.fingerprints import fingerprint
from services.gateway.callers.callers import Caller, Spending
from services.gateway.domain import drills
from services.gateway.domain.drills import DrillEffect
from services.gateway.domain.excerpts import Excerpts
from services.gateway.domain.records import EngineRecord
from services.gateway.domain.requests import ParsedRequest, digest_of
from services.gateway.domain.routing import Choice
from services.gateway.domain.shaping import forced_metrics, forces_length
from services.gateway.telemetry.request_traces import RequestTrace
from shared.serving.openai_stream import ApiRequest

_BODY_CHARS = 12
_DELIVERED_BYTES = 512 * 1024
"""Longer answers are not checked for the requested format."""
_FIRST_ANSWER = "0.0"
"""Name of the answer with features in telemetry, if a request asks for several."""


@dataclass(frozen=True)
class Arrival:
    """A request before its body is parsed.

    Attributes:
        request_id: the caller's id, else the gateway's.
        draw_id: the gateway's id, from which all shares are drawn: callers cannot choose it.
        environment: `staging` for rehearsals, else `production`.
        caller: the owner of the presented key.
        spending: the request's use of the key's limits.
        traceparent: the caller's unchanged header; empty without one.
        at: when the body was complete: the upload is not the target's time.
        at_s: the same on the monotonic clock; all durations start here.
    """

    request_id: str
    draw_id: str
    environment: Environment
    caller: Caller
    spending: Spending
    traceparent: str
    at: datetime
    at_s: float


@dataclass(frozen=True)
class AcceptedRequest:
    """A valid request with its target.

    Attributes:
        choice: the target that answers.
        trace: the request's spans.
        effect: effect of a drill on this request; None without one.
        pair: the other target of the drawn pair; None without one.
        waited_s: from arrival until the body was processed; no target is responsible for it.
        deadline_s: time limit of the whole answer.
        cache_salt: replaces the caller's salt in mirrored requests; None otherwise.
        is_callers: whether it is the caller's own request, not a mirrored or rescued copy.
        is_suspect: whether an engine died with this body in flight: it goes to no other version.
        prompt_tokens: estimated tokens of the prompts.
        answer_tokens: maximum tokens of the answers.
    """

    arrival: Arrival
    parsed: ParsedRequest
    choice: Choice
    deadline_s: float
    trace: RequestTrace
    effect: DrillEffect | None = None
    pair: Choice | None = None
    cache_salt: str | None = None
    is_callers: bool = True
    waited_s: float = 0.0
    is_suspect: bool = False
    prompt_tokens: int = 0
    answer_tokens: int = 0

    @property
    def response_headers(self) -> dict[str, str]:
        """Return the response headers: target, release, key limits, and the drill if there is one."""
        target = self.choice.served.target
        return {
            "x-slipway-version": str(target),
            "x-slipway-release": f"{target.model}@v{target.version}",
            **self.arrival.spending.headers,
            **(self.effect.headers if self.effect else {}),
        }

    def to_api_request(self, deadline_s: float, traceparent: str | None = None) -> ApiRequest:
        """Return the engine's request: the caller's bytes, to be answered within `deadline_s`."""
        parsed, arrival = self.parsed, self.arrival
        salt = self.cache_salt or arrival.caller.cache_salt
        holder, left_s = arrival.caller.holder_pseudonym, max(0.0, deadline_s)
        served = self.choice.served
        named = fingerprint(served.target, served.manifest.digest)
        return ApiRequest(
            "POST", parsed.path, parsed.raw, left_s, arrival.request_id, parsed.model, salt, traceparent, holder, named
        )


@dataclass(frozen=True)
class Outcome:
    """The end of a request; the default is a complete answer.

    Attributes:
        error: the failure; None for a caller's bad request (a 400), too.
        caused_by: the party that caused the failure.
        cancelled: the caller disconnected, or did not read.
    """

    error: ErrorKind | None = None
    caused_by: Party | None = None
    cancelled: bool = False


class Measurement:
    """Times, tokens and texts of one request, from the engine's records.

    Attributes:
        sent_s: when the last attempt was sent to the target, in monotonic seconds.
        excused_s: seconds before that attempt for which the target is not responsible.
        input_tokens: tokens of the prompts, as reported by the engine; 0 before.
        output_tokens: tokens of all answers so far.
    """

    def __init__(self, accepted: AcceptedRequest) -> None:
        self._accepted = accepted
        self._alteration = accepted.effect.alteration if accepted.effect else None
        self._ended_s: float | None = None
        self._arrivals: list[Piece] = []
        self._texts: list[str] = []
        self._form = accepted.parsed.form
        self._delivered: list[bytes] = []
        self._delivered_bytes = 0
        self._textless_tokens = 0
        self._finish_reasons: dict[str, str] = {}
        self.input_tokens = 0
        self._queue_ms: float | None = None
        self._logprob_mean: float | None = None
        self._nan_logits: bool | None = None
        self._is_whole = False
        self.sent_s = accepted.arrival.at_s
        self.excused_s = accepted.waited_s
        self.output_tokens = 0

    def count_new_tokens(self, record: EngineRecord) -> int:
        """Return the tokens that are new in a record; records hold running totals."""
        return max(0, record.output_tokens - self.output_tokens)

    def note(self, record: EngineRecord, now_s: float) -> str | None:
        """Add a record of the engine to the measurements.

        Returns:
            The new text of the answer, as altered by a drill; None if the engine generated nothing new.
        """
        at_s = now_s - self._accepted.arrival.at_s
        tokens = self.count_new_tokens(record)
        self.output_tokens += tokens
        self.input_tokens = max(self.input_tokens, record.input_tokens)
        self._queue_ms = self._queue_ms if record.queue_ms is None else record.queue_ms
        self._logprob_mean = self._logprob_mean if record.logprob_mean is None else record.logprob_mean
        self._nan_logits = self._nan_logits or (self._nan_logits if record.nan_logits is None else record.nan_logits)
        self._is_whole = self._is_whole or record.is_whole
        if record.finish_reasons:
            self._finish_reasons.update(record.finish_reasons)
            self._ended_s = at_s
        if not tokens and not record.texts:
            return None
        text = "".join(text for answer, text in record.texts if answer == _FIRST_ANSWER)
        self._textless_tokens += tokens
        text = drills.alter(self._alteration, text, self._textless_tokens, first=not any(self._texts))
        self._textless_tokens = 0 if record.texts else self._textless_tokens
        has_text = bool(text) or (self._alteration is None and bool(record.texts))
        self._arrivals.append(Piece(at_s, tokens, has_text))
        self._texts.append(text)
        return text

    def note_delivered(self, body: bytes) -> None:
        """Keep the caller's bytes for format validation, if the request prescribes the answer's format."""
        if not self._form or self._delivered_bytes > _DELIVERED_BYTES:
            return
        self._delivered_bytes += len(body)
        self._delivered.append(body)
        if self._delivered_bytes > _DELIVERED_BYTES:
            self._delivered.clear()

    def end(self, now_s: float) -> None:
        """Set the end of the request, in monotonic seconds, unless it is set."""
        if self._ended_s is None:
            self._ended_s = now_s - self._accepted.arrival.at_s

    @property
    def tokens(self) -> int:
        """Return the tokens of prompt and answers, without a drill's changes."""
        return self.input_tokens + self.output_tokens

    @property
    def has_ended(self) -> bool:
        """Return whether the engine reported the end of an answer."""
        return bool(self._finish_reasons)

    @property
    def excerpts(self) -> Excerpts:
        """Return the texts of the request and of the answer as delivered."""
        parsed = self._accepted.parsed
        return Excerpts.of(
            parsed.asked,
            "".join(self._texts),
            prompt_chars=len(parsed.text),
            form=json.dumps(self._form) if self._form else "",
            delivered=b"".join(self._delivered),
            holder=self._accepted.arrival.caller.holder,
        )

    @property
    def _finish_reason(self) -> str | None:
        """Return the finish reason of the first answer that has one."""
        return self._finish_reasons[min(self._finish_reasons)] if self._finish_reasons else None

    def to_record(
        self, outcome: Outcome, endpoint: str, death: Literal["meanwhile", "before"] | None = None
    ) -> Inference:
        """Return the telemetry record of an ended request, without any text.

        A caller that disconnects or does not read sets the finish reason, not an error: it is no evidence against the
        target. Times start at arrival and end when the engine delivered, not when the caller read. `excused_s` is
        subtracted: body processing, and a failed first attempt for which the target is not responsible.
        """
        accepted, parsed = self._accepted, self._accepted.parsed
        # Records of a whole answer have no text before its end, so tokens without text count.
        held_back = not parsed.stream or (self._alteration is None and (parsed.has_stops or forces_length(parsed.body)))
        held_back = held_back and self._alteration != "empty"
        excused_ms = self.excused_s * 1000.0
        first_ms = first_token_ms(self._arrivals, held_back=held_back)
        if not parsed.generates and outcome == Outcome():  # embeddings arrive in one piece
            first_ms = (self._ended_s or 0.0) * 1000.0
        unknown: tuple[TriggerMetric, ...] = ("ttft_ms",) if self._is_whole else ()
        record = Inference(
            request_id=accepted.arrival.request_id,
            target=accepted.choice.served.target,
            endpoint=endpoint,
            environment=accepted.arrival.environment,
            canary=accepted.choice.canary,
            pinned=accepted.choice.pinned,
            drill=accepted.effect.drill_id if accepted.effect else None,
            scheduled_at=accepted.arrival.at,
            sent_at=accepted.arrival.at + timedelta(seconds=self.sent_s - accepted.arrival.at_s),
            ttft_ms=None if first_ms is None or unknown else first_ms - excused_ms,
            itl_ms=inter_token(self._arrivals),
            e2e_ms=max(0.0, (self._ended_s or 0.0) * 1000.0 - excused_ms),
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            finish_reason=CANCELLED if outcome.cancelled else self._finish_reason,
            error=outcome.error,
            caused_by=outcome.caused_by,
            queue_ms=self._queue_ms,
            logprob_mean=self._logprob_mean,
            nan_logits=self._nan_logits,
            forced_metrics=(*forced_metrics(parsed.path, parsed.body), *unknown),
            caller=accepted.arrival.caller.pseudonym,
            holder=accepted.arrival.caller.holder_pseudonym,
            is_evidence=accepted.arrival.caller.key.evidence,
            engine_died=death if outcome.error == "engine_dead" else None,
            body=digest_of(parsed)[:_BODY_CHARS] if outcome.caused_by == "target" else None,
        )
        return record if accepted.effect is None else change_record(accepted.effect.fault, record)


@dataclass(frozen=True)
class Piece:
    """A piece of an answer, with its time in seconds after the request's arrival."""

    at_s: float
    tokens: int
    has_text: bool


def first_token_ms(arrivals: Sequence[Piece], *, held_back: bool = False) -> float | None:
    """Return the time to first token: of the first piece with text; None without one.

    Args:
        arrivals: the pieces in order.
        held_back: whether tokens without text count, because the caller's parameters suppress text: the engine
            withholds a possible stop sequence, and tokens after a forced end have no text.
    """
    times = (arrival.at_s for arrival in arrivals if arrival.has_text or (held_back and arrival.tokens > 0))
    first_s = next(times, None)
    return None if first_s is None else first_s * 1000.0


def inter_token(arrivals: Sequence[Piece]) -> InterTokenLatency | None:
    """Return the inter-token latency: mean = (last - first) / (tokens after the first piece), and p95 and maximum.

    A piece of n tokens counts as n equal gaps; the first piece has none. None if fewer than two pieces have tokens.
    """
    pieces = [arrival for arrival in arrivals if arrival.tokens > 0]
    if len(pieces) < 2:
        return None
    gaps: list[float] = []
    for before, after in itertools.pairwise(pieces):
        gaps += [(after.at_s - before.at_s) * 1000.0 / after.tokens] * after.tokens
    gaps.sort()
    mean = (pieces[-1].at_s - pieces[0].at_s) * 1000.0 / len(gaps)
    return InterTokenLatency(mean=mean, p95=gaps[math.ceil(0.95 * len(gaps)) - 1], max=gaps[-1])
