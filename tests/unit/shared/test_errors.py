"""Every error of the libraries below is mapped into the one tree, and what is unknown stays unknown."""

import errno
import inspect

import grpc
import grpc.aio
import minio.error
import nats.errors
import nats.js.errors
import pytest
import tritonclient.utils
import urllib3.exceptions

from contracts.codes import ADVICE
from shared.errors import Permanent, SlipwayError, Transient, as_code, translate

# What our own request made wrong stays wrong; everything else about the bus may be over in a moment.
NATS_PERMANENT = {
    "MaxPayloadError", "BadSubjectError", "BadHeaderError", "JsonParseError", "BadRequestError",
    "ConsumerInvalidResetError", "KeyWrongLastSequenceError",
}  # fmt: skip
ODD_CONSTRUCTORS = {
    urllib3.exceptions.IncompleteRead: lambda: urllib3.exceptions.IncompleteRead(10, 20),
    urllib3.exceptions.InvalidChunkLength: lambda: urllib3.exceptions.InvalidChunkLength(
        urllib3.HTTPResponse(b"", preload_content=False), b"zz"
    ),
}


def errors_of(*modules):
    found = {
        kind
        for module in modules
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, Exception) and not issubclass(kind, Warning)
        if kind.__module__ == module.__name__  # not what it imports from elsewhere
    }
    return sorted(found, key=lambda kind: (kind.__module__, kind.__name__))


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
    "kind", [kind for kind in errors_of(minio.error) if kind is not minio.error.S3Error and "Admin" not in kind.__name__],
    ids=ids,
)  # fmt: skip
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


def s3_error(code):
    return minio.error.S3Error(
        code=code, message="no", resource="/slipway/k", request_id="1", host_id="1", response=None,
        bucket_name="slipway", object_name="k",
    )  # fmt: skip


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


def rpc_error(code):
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="no")


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_every_status_of_grpc_is_mapped(code):
    error = check(translate(rpc_error(code)))
    assert (type(error), error.code) == (Transient, "endpoint_unreachable")


@pytest.mark.parametrize("kind", [grpc.RpcError, grpc.aio.BaseError, grpc.aio.UsageError, grpc.aio.InternalError], ids=ids)
def test_every_error_of_grpc_is_mapped(kind):
    assert check(translate(make(kind))).code == "endpoint_unreachable"


def test_error_of_tritonclient_is_mapped():
    error = check(translate(tritonclient.utils.InferenceServerException("stub died", status="500")))
    assert (type(error), error.code) == (Transient, "engine_dead")
    assert "stub died" in error.reason


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_transient(number):
    assert check(translate(OSError(number, "full"))).code == "disk_full"


def test_our_own_errors_pass_through():
    error = Permanent("barred", "It is barred.", target="x")
    assert translate(error) is error
    assert str(error) == "barred: It is barred."
    assert error.details == {"target": "x"}


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), KeyError("x"), OSError(errno.EACCES, "no"), AssertionError()])
def test_what_is_unknown_is_not_guessed(error):
    assert translate(error) is None


def test_codes_from_outside_are_checked():
    assert as_code("barred") == "barred"
    assert as_code("no_such_code") == "internal_error"
