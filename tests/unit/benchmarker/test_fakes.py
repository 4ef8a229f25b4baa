"""The fakes keep the promises of the real parts."""

import contextlib

import pytest

from tests.unit.benchmarker.engine_conformance import TOKEN_NLL, ScoringConformance
from tests.unit.benchmarker.factories import BASELINE, CANDIDATE, served
from tests.unit.benchmarker.fakes import Behaviour, FakeEngine, FakeReports
from tests.unit.benchmarker.reports_conformance import ReportsConformance
from tests.unit.benchmarker.virtual_time import run_virtually


class TestFakeEngine(ScoringConformance):
    def run(self, main):
        return run_virtually(main)

    @contextlib.asynccontextmanager
    async def engine(self):
        yield FakeEngine({str(CANDIDATE): Behaviour(token_nll=TOKEN_NLL)})

    def answering(self):
        return served(CANDIDATE)

    def absent(self):
        return served(BASELINE)


class TestFakeReports(ReportsConformance):
    @pytest.fixture
    def reports(self):
        return FakeReports()

    def put(self, reports, name, data):
        return reports.put(f"memory://{name}", data)

    def put_variant(self, reports, windows):
        return reports.put_manifest(windows)
