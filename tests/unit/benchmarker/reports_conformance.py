"""What the benchmarker relies on in its report store: run on the fake and on a real S3 server."""

from datetime import UTC, datetime

import pytest

from contracts.manifests import HeldOutWindow
from contracts.vocabulary import ArtifactRef, digest_of
from services.benchmarker.domain.hardware import Hardware
from services.benchmarker.domain.plan import plan_benchmark
from services.benchmarker.domain.report import make_report
from services.benchmarker.ports import Reports
from shared.errors import Permanent
from tests.unit.benchmarker.factories import UNSCORED, artifact, record, staged, window

BOX = Hardware(cpu="test", cores=2, memory_bytes=2**34)


def a_report(*, attempt: int = 1, ttft_ms: float = 100.0):
    order = staged(attempt=attempt)
    plan = plan_benchmark(order, hardware="box", prompts="p")
    records = [
        record(side=side, pair=pair, scheduled_s=float(pair), ttft_ms=ttft_ms)
        for pair in range(25)
        for side in ("candidate", "baseline")
    ]
    return make_report(
        order,
        plan,
        records,
        served_quality=UNSCORED,
        hardware=BOX,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        duration_s=30.0,
    )


class ReportsConformance:
    """Subclasses give a store, and a way to put an evaluation set into it."""

    @pytest.fixture
    def reports(self) -> Reports:
        raise NotImplementedError

    def put(self, reports: Reports, name: str, data: bytes) -> ArtifactRef:
        raise NotImplementedError

    def put_variant(self, reports: Reports, windows: tuple[HeldOutWindow, ...]) -> ArtifactRef:
        raise NotImplementedError

    def test_what_was_never_committed_is_not_there(self, reports):
        assert reports.find(digest_of(b"never")) is None

    def test_a_committed_report_is_found_whole(self, reports):
        report = a_report()
        committed, ref = reports.commit(report)
        assert committed == report
        assert reports.find(report.output_key) == (report, ref)
        assert ref.size_bytes > 0

    def test_the_first_report_of_a_key_stands(self, reports):
        first, second = a_report(attempt=2), a_report(attempt=2, ttft_ms=999.0)
        assert first.output_key == second.output_key
        _, ref = reports.commit(first)
        assert reports.commit(second) == (first, ref)

    def test_the_windows_of_a_variant_are_those_of_its_manifest(self, reports):
        windows = (window(tokens=4), window(tokens=3))
        assert reports.held_out(self.put_variant(reports, windows)) == windows
        with pytest.raises(Permanent) as caught:
            reports.held_out(artifact("nowhere"))
        assert caught.value.code == "artifact_not_found"

    def test_an_evaluation_set_is_read_and_verified(self, reports):
        ref = self.put(reports, "evaluation.jsonl", b'"one"\n')
        assert reports.evaluation(ref) == b'"one"\n'
        with pytest.raises(Permanent) as caught:
            reports.evaluation(ref.model_copy(update={"digest": digest_of(b"other")}))
        assert caught.value.code == "digest_mismatch"

    def test_an_evaluation_set_that_is_not_there_says_so(self, reports):
        ref = self.put(reports, "evaluation-2.jsonl", b'"one"\n')
        with pytest.raises(Permanent) as caught:
            reports.evaluation(ref.model_copy(update={"uri": ref.uri + ".gone"}))
        assert caught.value.code == "artifact_not_found"
