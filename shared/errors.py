"""The error tree: transient errors are retried, permanent ones are not.

SlipwayError
├── Transient   the world is not ready; tried again with backoff, up to the limits in shared/messaging/delivery.py
└── Permanent   trying again would fail again; becomes a rejection fact or a dead letter
"""

import errno
import itertools
import json
import math
from typing import Any, cast, get_args

from pydantic import ValidationError

from contracts.codes import ADVICE, Code

_CODES = frozenset(get_args(Code))


REASON_CHARS = 4_000
"""The longest reason: it may quote what came from outside, and must fit into a fact."""
DETAIL_CHARS = 2_000
DETAIL_ITEMS = 100
DETAIL_DEPTH = 4
DETAILS_BYTES = 50_000
"""After so many bytes of JSON, what is left of lists and objects is dropped, and those in them are replaced by what
they are and how many they hold."""


def publishable(details: dict[str, Any]) -> dict[str, Any]:
    """Return details as a fact can hold them: no lone surrogates, NaN or infinity, and of limited size.

    Details may quote what came from outside. A refusal that cannot be published would be tried again for ever.
    """
    left = DETAILS_BYTES

    def limited(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 8
        if not isinstance(value, list | tuple | dict):
            plain = _plain(value)
            left -= len(json.dumps(plain)) if isinstance(plain, str) else 0  # one character may take twelve bytes
            return plain
        if depth == DETAIL_DEPTH or left <= 0:
            return f"a {type(value).__name__} of {len(value)}"
        if isinstance(value, dict):
            items = itertools.islice(value.items(), DETAIL_ITEMS)
            return {limited(str(name), depth): limited(item, depth + 1) for name, item in items if left > 0}
        return [limited(item, depth + 1) for item in value[:DETAIL_ITEMS] if left > 0]

    result: dict[str, Any] = limited(details, 0)
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return _shorten(value, DETAIL_CHARS)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    return value


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
        self.details: dict[str, Any] = publishable(details)

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
    """Return an error code from outside as one of ours; `internal_error` for an unknown one."""
    return cast("Code", value) if value in _CODES else "internal_error"


def problems_of(error: ValidationError) -> list[str]:
    """Return what is wrong with each field of an invalid value, without the value: that may be a secret."""
    return [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]


def translate(error: BaseException) -> SlipwayError | None:
    """Map an error of a library below to ours; None when it is unknown (tried again up to the delivery limit)."""
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
"""Of the 4xx, those that may be answered otherwise later; 5xx and redirects always may.

A 403 with a code that is not listed is more often a clock, a policy of a proxy or credentials than the object.
"""


def _from_minio(error: BaseException) -> SlipwayError | None:
    import minio.error as m
    import urllib3.exceptions as u

    if isinstance(error, m.S3Error):
        return _from_s3(error)
    answered = getattr(error, "reason", None)
    if isinstance(error, u.MaxRetryError) and isinstance(answered, u.ResponseError):
        hint = "its disk may be full, see its log" if " 500 " in str(answered) else "see its log"
        reason = f"The object store answers {error.url} with errors ({answered}): {hint}."
        return Transient("store_unavailable", reason)
    if isinstance(error, m.MinioException | u.HTTPError):
        return Transient("store_unavailable", f"The object store does not answer: {error!r}.")
    return None


def is_failed_answer(error: BaseException) -> bool:
    """Return whether the object store answered every attempt with a server error, or broke off.

    A 503 is none: by it the store asks for later tries, whatever the object.
    """
    import urllib3.exceptions as u

    if isinstance(error, u.MaxRetryError):
        return isinstance(error.reason, u.ResponseError) and " 503 " not in str(error.reason)
    return isinstance(error, u.ProtocolError)


def _from_s3(error: Any) -> SlipwayError:
    """Decide by the answer's code; by its status where the code is not listed. Without either it is Transient."""
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
    """Map the failure to write weights onto a full disk, which the library reports as text only.

    An error of reading may quote a file from outside, so the text must be about writing.
    """
    if type(error).__name__ != "SafetensorError" or not type(error).__module__.startswith("safetensors"):
        return None
    text = str(error)
    if text.startswith(_SAVING) and text.endswith(_NO_SPACE):
        return Transient("disk_full", f"Weights could not be saved: {text.removeprefix(_SAVING)}.")
    return None
