"""Every error of the libraries below is mapped into the one tree, and what is unknown stays unknown."""

import errno
import functools
import inspect

import grpc
import grpc.aio
import minio.error
import nats.errors
import nats.js.errors
import pytest
import tritonclient.utils
import urllib3.exceptions
from hypothesis import given
from safetensors import SafetensorError

from contracts.codes import ADVICE
from contracts.vocabulary import canonical_json
from shared.errors import Permanent, SlipwayError, Transient, as_code, is_failed_answer, translate
from tests.kit.hostile import ANY_JSON, ANY_TEXT

# What our own request made wrong stays wrong; everything else about the bus may be over in a moment.
NATS_PERMANENT = {
    "MaxPayloadError",
    "BadSubjectError",
    "BadHeaderError",
    "JsonParseError",
    "BadRequestError",
    "ConsumerInvalidResetError",
    "KeyWrongLastSequenceError",
}
ODD_CONSTRUCTORS = {
    urllib3.exceptions.IncompleteRead: lambda: urllib3.exceptions.IncompleteRead(10, 20),
    urllib3.exceptions.InvalidChunkLength: lambda: urllib3.exceptions.InvalidChunkLength(
        urllib3.HTTPResponse(b"", preload_content=False), b"zz"
    ),
}


def errors_of(*modules):
    classes = {
        kind
        for module in modules
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, Exception) and not issubclass(kind, Warning)
        if kind.__module__ == module.__name__  # not what it imports from elsewhere
    }
    return sorted(classes, key=lambda kind: (kind.__module__, kind.__name__))


def make(kind):
    """Make an instance whatever its constructor asks for."""
    if kind in ODD_CONSTRUCTORS:
        return ODD_CONSTRUCTORS[kind]()
    try:
        return kind()
    except TypeError:
        error = kind.__new__(kind)
        error.args = ("made by a test",)
        return error


def ids(kind):
    return f"{kind.__module__}.{kind.__name__}"


def check(error):
    assert isinstance(error, SlipwayError)
    assert error.code in ADVICE
    assert error.reason.endswith(".")
    assert error.sentence().endswith(ADVICE[error.code])
    return error


@pytest.mark.parametrize("kind", errors_of(nats.errors, nats.js.errors), ids=ids)
def test_every_error_of_nats_is_mapped(kind):
    error = check(translate(make(kind)))
    if kind.__name__ in NATS_PERMANENT:
        assert isinstance(error, Permanent)
    else:
        assert (type(error), error.code) == (Transient, "bus_unavailable")


@pytest.mark.parametrize(
    "kind",
    [kind for kind in errors_of(minio.error) if kind is not minio.error.S3Error and "Admin" not in kind.__name__],
    ids=ids,
)
def test_every_error_of_minio_is_mapped(kind):
    """The administration API, whose one error is left out, is not used."""
    error = check(translate(make(kind)))
    assert (type(error), error.code) == (Transient, "store_unavailable")


@pytest.mark.parametrize(
    "kind", [kind for kind in errors_of(urllib3.exceptions) if kind.__name__ != "ProxySchemeUnsupported"], ids=ids
)
def test_every_error_of_urllib3_is_mapped(kind):
    """But for a mistake in the setting of a proxy, which is a ValueError."""
    error = check(translate(make(kind)))
    assert (type(error), error.code) == (Transient, "store_unavailable")


def s3_error(code, status=None, body=b"<Error/>"):
    response = urllib3.HTTPResponse(body, status=status) if status is not None else None
    return minio.error.S3Error(
        code=code,
        message="no",
        resource="/slipway/k",
        request_id="1",
        host_id="1",
        response=response,
        bucket_name="slipway",
        object_name="k",
    )


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        ("NoSuchKey", Permanent, "artifact_not_found"),
        ("NoSuchBucket", Permanent, "artifact_not_found"),
        ("NoSuchVersion", Permanent, "artifact_not_found"),
        ("AccessDenied", Permanent, "uri_not_allowed"),
        ("BadDigest", Permanent, "digest_mismatch"),
        ("XAmzContentSHA256Mismatch", Permanent, "digest_mismatch"),
        ("SlowDown", Transient, "store_unavailable"),
        ("InternalError", Transient, "store_unavailable"),
        ("ServiceUnavailable", Transient, "store_unavailable"),
        ("RequestTimeout", Transient, "store_unavailable"),
        ("SomethingNew", Transient, "store_unavailable"),
    ],
)
def test_answers_of_the_store(answer, kind, code):
    error = check(translate(s3_error(answer)))
    assert (type(error), error.code) == (kind, code)


# Every error code that the S3 API documents for objects and uploads, with its status.
TRIED_AGAIN = {
    "RequestTimeout": 400,
    "ExpiredToken": 400,
    "TokenRefreshRequired": 400,
    "InvalidToken": 400,
    "IncompleteBody": 400,
    "AuthorizationHeaderMalformed": 400,
    "InvalidPart": 400,
    "Busy": 503,
    "ConditionalRequestConflict": 409,
    "OperationAborted": 409,
    "ResourceConflict": 409,
    "BucketAlreadyOwnedByYou": 409,
    "RequestTimeTooSkewed": 403,
    "RequestExpired": 403,
    "InvalidAccessKeyId": 403,
    "SignatureDoesNotMatch": 403,
    "AccountProblem": 403,
    "NotSignedUp": 403,
    "InvalidSecurity": 403,
    "AllAccessDisabled": 403,
    "NoSuchUpload": 404,
    "SlowDown": 503,
    "TooManyRequests": 429,
    "ThrottlingException": 400,
    "Throttling": 400,
    "RequestLimitExceeded": 400,
    "BandwidthLimitExceeded": 509,
    "InternalError": 500,
    "ServiceUnavailable": 503,
    "NotImplemented": 501,
    "XMinioServerNotInitialized": 503,
    "XMinioBackendDown": 503,
    "TemporaryRedirect": 307,
    "PermanentRedirect": 301,
    "Redirect": 307,
    "Unauthorized": 401,
    "RestoreAlreadyInProgress": 409,
    "UnlistedConflict": 409,
    "UnlistedTimeout": 408,
    "UnlistedEarly": 425,
    "UnlistedMany": 429,
    "UnlistedServer": 599,
}
FULL = {
    "XMinioStorageFull": 507,
    "XMinioAdminBucketQuotaExceeded": 400,
    "QuotaExceeded": 403,
    "InsufficientStorage": 507,
}
FOR_GOOD = {
    "KeyTooLongError": 400,
    "EntityTooLarge": 400,
    "EntityTooSmall": 400,
    "InvalidArgument": 400,
    "InvalidObjectName": 400,
    "XMinioInvalidObjectName": 400,
    "InvalidURI": 400,
    "InvalidBucketName": 400,
    "InvalidDigest": 400,
    "InvalidRequest": 400,
    "InvalidTag": 400,
    "InvalidPartOrder": 400,
    "InvalidStorageClass": 400,
    "MalformedXML": 400,
    "MetadataTooLarge": 400,
    "MissingContentLength": 411,
    "MethodNotAllowed": 405,
    "PreconditionFailed": 412,
    "InvalidObjectState": 403,
    "ObjectLocked": 403,
    "UnlistedWrong": 400,
    "UnlistedGone": 410,
    "UnlistedTeapot": 418,
    "UnlistedLegal": 451,
}


@pytest.mark.parametrize(("answer", "status"), TRIED_AGAIN.items())
def test_answers_of_the_store_that_may_be_over_in_a_moment(answer, status):
    error = check(translate(s3_error(answer, status)))
    assert (type(error), error.code) == (Transient, "store_unavailable")


def test_a_store_that_answers_with_errors_is_none_that_does_not_answer():
    answered = urllib3.exceptions.ResponseError("too many 500 error responses")
    error = check(translate(urllib3.exceptions.MaxRetryError(None, "/slipway/blobs/a", answered)))
    assert (type(error), error.code) == (Transient, "store_unavailable")
    assert error.reason == (
        "The object store answers /slipway/blobs/a with errors (too many 500 error responses): its disk may be full, "
        "see its log."
    )
    away = urllib3.exceptions.ResponseError("too many 503 error responses")
    error = check(translate(urllib3.exceptions.MaxRetryError(None, "/slipway/blobs/a", away)))
    assert error.reason == (
        "The object store answers /slipway/blobs/a with errors (too many 503 error responses): see its log."
    ), "a proxy without a store behind it says nothing of a disk"
    silent = check(translate(urllib3.exceptions.MaxRetryError(None, "/slipway/blobs/a", TimeoutError("silent"))))
    assert silent.reason.startswith("The object store does not answer")


@pytest.mark.parametrize(("answer", "status"), FULL.items())
def test_a_store_without_space_is_a_full_disk(answer, status):
    error = check(translate(s3_error(answer, status)))
    assert (type(error), error.code) == (Transient, "disk_full")


@pytest.mark.parametrize(("answer", "status"), FOR_GOOD.items())
def test_answers_of_the_store_that_no_repetition_changes(answer, status):
    error = check(translate(s3_error(answer, status)))
    assert (type(error), error.code) == (Permanent, "store_refused")
    assert answer in error.reason


@pytest.mark.parametrize("status", range(300, 600))
def test_an_answer_that_is_not_listed_is_decided_by_its_status(status):
    error = check(translate(s3_error("SomethingNew", status)))
    wrong = 400 <= status < 500 and status not in (401, 403, 407, 408, 409, 421, 423, 425, 429)
    assert type(error) is (Permanent if wrong else Transient)


def test_a_denial_without_a_body_may_be_a_wrong_clock():
    """The client makes AccessDenied of every 403 to a HEAD request, also of RequestTimeTooSkewed."""
    assert isinstance(translate(s3_error("AccessDenied", 403, b"")), Transient)
    assert isinstance(translate(s3_error("AccessDenied", 403)), Permanent)


def rpc_error(code):
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="no")


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_every_status_of_grpc_is_mapped(code):
    error = check(translate(rpc_error(code)))
    assert (type(error), error.code) == (Transient, "endpoint_unreachable")


@pytest.mark.parametrize(
    "kind", [grpc.RpcError, grpc.aio.BaseError, grpc.aio.UsageError, grpc.aio.InternalError], ids=ids
)
def test_every_error_of_grpc_is_mapped(kind):
    assert check(translate(make(kind))).code == "endpoint_unreachable"


def test_error_of_tritonclient_is_mapped():
    error = check(translate(tritonclient.utils.InferenceServerException("stub died", status="500")))
    assert (type(error), error.code) == (Transient, "engine_dead")
    assert "stub died" in error.reason


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_transient(number):
    assert check(translate(OSError(number, "full"))).code == "disk_full"


NO_SPACE = "I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize("text", [NO_SPACE, "I/O error: Disk quota exceeded (os error 122)"])
def test_weights_that_fill_the_disk_are_transient(text):
    error = check(translate(SafetensorError(f"Error while serializing: {text}")))
    assert (type(error), error.code) == (Transient, "disk_full")
    assert text in error.reason


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError(f"Error while deserializing header: {NO_SPACE}"),  # may quote the file
        SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)"),
        RuntimeError(f"Error while serializing: {NO_SPACE}"),  # a chat template may raise any text
    ],
)
def test_a_text_about_a_full_disk_may_come_from_outside(error):
    assert translate(error) is None


def test_our_own_errors_pass_through():
    error = Permanent("quarantined", "It is quarantined.", target="x")
    assert translate(error) is error
    assert str(error) == "quarantined: It is quarantined."
    assert error.details == {"target": "x"}


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("x"), KeyError("x"), OSError(errno.EACCES, "no"), AssertionError()]
)
def test_what_is_unknown_is_not_guessed(error):
    assert translate(error) is None


def test_codes_from_outside_are_checked():
    assert as_code("quarantined") == "quarantined"
    assert as_code("no_such_code") == "internal_error"


@pytest.mark.parametrize(("status", "failed"), [(500, True), (502, True), (503, False), (504, True)])
def test_a_store_that_asks_for_later_tries_has_not_failed_at_the_object(status, failed):
    reason = urllib3.exceptions.ResponseError(f"too many {status} error responses")
    assert is_failed_answer(urllib3.exceptions.MaxRetryError(None, "/slipway/k", reason)) is failed


@given(ANY_TEXT, ANY_JSON)
def test_what_an_error_says_can_always_be_published(reason, detail):
    error = Permanent("internal_error", reason, detail=detail, also=float("nan"))
    assert len(canonical_json({"reason": error.reason, "details": error.details})) < 100_000


TEXTS = [f"{number}" + "\0" * 2_000 for number in range(100)]
HUGE = {
    "long texts": lambda: ("x" * 9_000_000, ["y" * 9_000_000]),
    "deep": lambda: ("", {"a": [[[[[[["x"]]]]]]]}),
    "wide": lambda: ("", [[["x" * 2_000] * 100] * 100] * 100),
    "a long number": lambda: ("", 10**5000),
    "escapes": lambda: ("\0" * 9_000, ["\0" * 2_000] * 100),
    "long texts beside what is full": lambda: ("", functools.reduce(lambda inner, _: [inner, *TEXTS], range(4), TEXTS)),
    "long keys": lambda: ("", {f"{number}" + "\U0001f3f4" * 3_000: dict.fromkeys(TEXTS, 1) for number in range(100)}),
}


@pytest.mark.parametrize("case", HUGE)
def test_what_an_error_says_is_small(case):
    reason, detail = HUGE[case]()
    error = Permanent("internal_error", reason, detail=detail)
    assert len(canonical_json({"reason": error.reason, "details": error.details})) < 100_000


def test_what_an_error_says_is_kept_where_it_can_be():
    details = {"path": "config.json", "found": [8, 16], "problems": ["a: missing", "b: 7 is too many"], "ratio": 0.5}
    error = Permanent("internal_error", "A sentence.", **details)
    assert (error.reason, error.details) == ("A sentence.", details)
