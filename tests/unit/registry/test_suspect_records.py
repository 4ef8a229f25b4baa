"""A record of quality that the engine contradicts: the variant is inconclusive, and says so."""

from tests.kit import fakes_registry as k
from tests.unit.registry.walks import Walk


def test_a_suspect_record_ends_inconclusive_with_its_reason():
    walk = Walk().to_staging()
    emitted = walk.handle(k.staged("int8"), k.suspect("int8"))
    assert list(emitted) == ["stage.released:int8", "release.finished"]
    assert (walk.end.outcome, walk.end.code) == ("rejected", "measurement_suspect")
    assert "At fault: the record" in walk.end.reason
    assert [variant.verdict for variant in walk.comparison.variants] == ["inconclusive"]


def test_a_benchmark_that_failed_in_something_else_names_that():
    walk = Walk().to_staging()
    walk.handle(k.staged("int8"), k.suspect("int8", others=(k.gate("itl_ms.p95", "fail"),)))
    assert walk.end.code == "gate_failed"


def test_others_that_failed_for_good_name_the_end():
    walk = Walk(variants=("int8", "bf16")).to_staging()
    walk.handle(k.staged("int8"), k.suspect("int8"), k.staged("bf16"), k.benchmarked("bf16", verdict="fail"))
    assert walk.end.code == "gate_failed"
    assert "At fault: the record" in walk.end.reason


def test_the_other_variants_continue():
    walk = Walk(variants=("int8", "bf16")).to_staging()
    emitted = walk.handle(k.staged("int8"), k.suspect("int8"), k.staged("bf16"), k.benchmarked("bf16"))
    assert emitted["traffic.requested:1"]["target"]["target"]["variant"] == "bf16"
