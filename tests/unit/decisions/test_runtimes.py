"""Which runtime serves a version, and what is said of one that a fleet does not have."""

from contracts.runtimes import DEFAULT_RUNTIME
from contracts.vocabulary import Runtime, ServingSettings
from decisions.serving.runtimes import runtime_name, why_no_runtime

NEXT = ServingSettings(runtime="next")


def test_a_version_without_a_runtime_is_served_by_the_default_one():
    assert runtime_name(None) == runtime_name(ServingSettings()) == DEFAULT_RUNTIME
    assert runtime_name(NEXT) == "next"


def test_a_runtime_that_the_fleet_lacks_is_named_with_those_that_it_has():
    assert why_no_runtime(NEXT, {DEFAULT_RUNTIME, "next"}) is None
    assert why_no_runtime(None, {DEFAULT_RUNTIME}) is None
    reason = why_no_runtime(NEXT, {"other", DEFAULT_RUNTIME})
    assert reason == (
        "The serving fleet has no runtime next; it has default, other. Publish with one of them, or add next to it."
    )


def test_a_runtime_is_one_line():
    digest = "sha256:" + "a" * 64
    runtime = Runtime(engine="vllm", engine_version="1.2", server_version="2.51.0", environment_digest=digest)
    assert str(runtime) == f"vllm 1.2, triton 2.51.0, {digest}"
    assert str(Runtime(engine="toy", engine_version="1")) == "toy 1"
