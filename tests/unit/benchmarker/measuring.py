"""A benchmarker on fakes."""

from services.benchmarker.app import Benchmarker
from services.benchmarker.domain.hardware import Hardware
from shared.errors import Permanent
from tests.kit.virtual_time import VirtualClock
from tests.unit.benchmarker.factories import BASELINE, CANDIDATE
from tests.unit.benchmarker.fakes import Behaviour, FakeEngine, FakeReports
from tests.unit.benchmarker.virtual_time import EPOCH, run_virtually

BOX = Hardware(cpu="test", cores=2, memory_bytes=2**34)


async def bracketed(served_target, messages):
    if "refuse" in messages[-1].content:
        raise Permanent("bad_request", "refused")
    return f"<{served_target.target.version}>{messages[-1].content}"


def make(candidate=None, baseline=None, *, reports=None, hardware=BOX, give_up_after_s=900.0):
    engine = FakeEngine({str(CANDIDATE): candidate or Behaviour(), str(BASELINE): baseline or Behaviour()})
    return Benchmarker(
        engine=engine,
        reports=FakeReports() if reports is None else reports,
        template=bracketed,
        clock=VirtualClock(EPOCH),
        hardware=hardware,
        give_up_after_s=give_up_after_s,
    )


def measure(benchmarker, order):
    seen = []

    def note(done, total):
        seen.append((done, total))

    report, ref = run_virtually(benchmarker.measure(order, note))
    return report, ref, seen
