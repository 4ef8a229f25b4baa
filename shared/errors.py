"""The error tree: transient errors are retried, permanent ones are not.

SlipwayError
├── Transient   the world is not ready; tried again with backoff, up to the limits in shared/messaging/delivery.py
└── Permanent   trying again would fail again; becomes a rejection fact or a dead letter
"""

import errno
from typing import Any, cast, get_args

from pydantic import ValidationError

from contracts.codes import ADVICE, Code
from contracts.vocabulary import canonical_json

_CODES = frozenset(get_args(Code))


REASON_CHARS = 4_000
"""The longest reason: it may quote input from outside, and must fit into a fact."""
DETAIL_CHARS = 2_000
DETAIL_BYTES = 20_000


def publishable(value: Any) -> Any:
    """Return a detail of an error as a fact can hold it: JSON of at most `DETAIL_BYTES`, else a text in its place.

    Details may quote input from outside, and an error that cannot be published would be retried for ever.
    """
    try:
        if len(canonical_json(value)) <= DETAIL_BYTES:
            return value
    except (TypeError, ValueError, RecursionError):  # a lone surrogate, NaN, an integer of 5,000 digits …
        pass
    return _shorten(value, DETAIL_CHARS) if isinstance(value, str) else f"{type(value).__name__}, that cannot be shown"


def _shorten(text: str, chars: int) -> str:
    """Return a text without lone surrogates, of at most `chars` characters."""
    text = text if len(text) <= chars else text[: chars - 1] + "…"
    return text.encode(errors="replace").decode()


class SlipwayError(Exception):
    """An error with a stable code and a sentence for a person."""

    def __init__(self, code: Code, reason: str, **details: Any) -> None:
        reason = _shorten(reason, REASON_CHARS)
        super().__init__(reason)
        self.code: Code = code
        self.reason: str = reason
        self.details: dict[str, Any] = {name: publishable(detail) for name, detail in details.items()}

    def sentence(self) -> str:
        """Return the reason and the advice for its code."""
        return f"{self.reason} {ADVICE[self.code]}"

    def __str__(self) -> str:
        return f"{self.code}: {self.reason}"


class Transient(SlipwayError):  # noqa: N818 - names a category of errors
    """May succeed later with the same input."""


class Permanent(SlipwayError):  # noqa: N818 - names a category of errors
    """Will fail again as long as the input is the same."""


def as_code(value: str) -> Code:
    """Return an error code from outside if it is declared, else `internal_error`."""
    return cast("Code", value) if value in _CODES else "internal_error"


def problems_of(error: ValidationError) -> list[str]:
    """Return what is wrong with each field of an invalid value, without the value: that may be a secret."""
    return [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]


def translate(error: BaseException) -> SlipwayError | None:
    """Map an error of a library to the error tree; None if it is unknown (retried up to the delivery limit)."""
    if isinstance(error, SlipwayError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Transient("disk_full", f"No space left: {error}.")
    for translator in (_from_nats, _from_minio, _from_triton, _from_safetensors):
        translated = translator(error)
        if translated is not None:
            return translated
    return None


_STREAM_FULL = 10077
_ABOVE_THE_STREAMS_SIZE = 10054
_STORE_FULL = (10023, 10047)


def _from_nats(error: BaseException) -> SlipwayError | None:
    import nats.errors as n
    import nats.js.errors as js

    if not isinstance(error, n.Error):
        return None
    if isinstance(error, n.MaxPayloadError):
        return Permanent("internal_error", f"A message is larger than the bus allows: {error}.")
    if isinstance(error, n.BadSubjectError | n.BadHeaderError | n.JsonParseError | js.BadRequestError):
        above = getattr(error, "err_code", None) == _ABOVE_THE_STREAMS_SIZE
        return Permanent("too_large" if above else "internal_error", f"The bus refused the request: {error!r}.")
    refusal = getattr(error, "err_code", None)
    if refusal == _STREAM_FULL:
        return Transient("stream_full", f"A stream of the message bus is full: {error}.")
    if refusal in _STORE_FULL:
        return Transient("stream_full", f"The store of the message bus is full: {error}.")
    return Transient("bus_unavailable", f"The message bus does not answer: {error!r}.")


_STORE_PERMANENT: dict[str, Code] = {
    "NoSuchKey": "artifact_not_found",
    "NoSuchBucket": "artifact_not_found",
    "NoSuchVersion": "artifact_not_found",
    "AccessDenied": "uri_not_allowed",
    "BadDigest": "digest_mismatch",
    "XAmzContentSHA256Mismatch": "digest_mismatch",
    "InvalidRange": "digest_mismatch",
    "InvalidObjectState": "store_refused",
    "ObjectLocked": "store_refused",
}
_STORE_TRANSIENT = frozenset(
    {
        "RequestTimeout",
        "RequestTimeTooSkewed",
        "RequestExpired",
        "ExpiredToken",
        "TokenRefreshRequired",
        "InvalidToken",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "AuthorizationHeaderMalformed",
        "AccountProblem",
        "NotSignedUp",
        "InvalidSecurity",
        "AllAccessDisabled",
        "Unauthorized",
        "NoSuchUpload",
        "InvalidPart",
        "IncompleteBody",
        "TooManyRequests",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
    }
)
"""Answers of 4xx that are about the moment, a clock or credentials, and not about the object."""
_S3_FULL = frozenset({"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "InsufficientStorage"})
_STATUS_TRANSIENT = frozenset({401, 403, 407, 408, 409, 421, 423, 425, 429})
"""Retriable 4xx; all 5xx and redirects are retriable.

A 403 with an unlisted code usually comes from a clock, a proxy or credentials, not from the object.
"""


def _from_minio(error: BaseException) -> SlipwayError | None:
    import minio.error as m
    import urllib3.exceptions as u

    if isinstance(error, m.S3Error):
        return _from_s3(error)
    answered = getattr(error, "reason", None)
    if isinstance(error, u.MaxRetryError) and isinstance(answered, u.ResponseError):
        hint = "its disk may be full, see its log" if " 500 " in str(answered) else "see its log"
        return Transient("store_unavailable", f"The object store answers {error.url} with errors ({answered}): {hint}.")
    if isinstance(error, m.MinioException | u.HTTPError):
        return Transient("store_unavailable", f"The object store does not answer: {error!r}.")
    return None


def is_failed_answer(error: BaseException) -> bool:
    """Return whether the object store answered every attempt with a server error other than 503, or broke off."""
    import urllib3.exceptions as u

    if isinstance(error, u.MaxRetryError):
        return isinstance(error.reason, u.ResponseError) and " 503 " not in str(error.reason)
    return isinstance(error, u.ProtocolError)


def _from_s3(error: Any) -> SlipwayError:
    """Map an S3 error by its code, or by its status if the code is not listed; Transient without either."""
    what = f"The store answered {error.code} for {error.object_name or error.bucket_name}"
    code = _STORE_PERMANENT.get(error.code)
    response = error.response
    if error.code == "AccessDenied" and response is not None and not response.data:
        code = None  # made by the client of any 403 to a HEAD request, also where a clock or a signature is wrong
    elif code is not None:
        return Permanent(code, f"{what}.")
    if error.code in _S3_FULL:
        return Transient("disk_full", f"{what}: {error.message}.")
    status = response.status if response is not None else 0
    listed = error.code in _STORE_TRANSIENT or error.code == "AccessDenied"
    if listed or not 400 <= status < 500 or status in _STATUS_TRANSIENT:
        return Transient("store_unavailable", f"{what}: {error.message}.")
    return Permanent("store_refused", f"{what} (status {status}): {error.message}.")


def _from_triton(error: BaseException) -> SlipwayError | None:
    module = type(error).__module__
    if module.startswith("grpc"):
        return Transient("endpoint_unreachable", f"The serving endpoint does not answer: {error!r}.")
    if type(error).__name__ == "InferenceServerException" and module.startswith("tritonclient"):
        return Transient("engine_dead", f"The serving engine answered with an error: {error}.")
    return None


_SAVING = "Error while serializing: "
_NO_SPACE = (f"(os error {errno.ENOSPC})", f"(os error {errno.EDQUOT})")


def _from_safetensors(error: BaseException) -> SlipwayError | None:
    """Map a full disk while saving weights; the library reports it as text only.

    The text must begin as an error of saving: errors of loading may quote a file from outside.
    """
    if type(error).__name__ != "SafetensorError" or not type(error).__module__.startswith("safetensors"):
        return None
    text = str(error)
    if text.startswith(_SAVING) and text.endswith(_NO_SPACE):
        return Transient("disk_full", f"Weights could not be saved: {text.removeprefix(_SAVING)}.")
    return None
