"""When a part counts as hung: silence, starvation, a late supervisor, a start that does nothing, a crash handler."""

import pytest

from deploy.local.watch import Activity, HangDetector, HangLimits, read_activity

LOOK_S = 0.5


class Watched:
    """A hang detector on a clock that is turned by hand; the process has 30 s to start."""

    def __init__(self) -> None:
        self.detector = HangDetector(HangLimits(), 30.0)
        self.used_s = 1.0
        self.starting = True

    def answer(self) -> "Watched":
        self.detector.answered()
        self.starting = False
        return self

    def killed_after(self, seconds: float, *, used=0.0, elapsed=LOOK_S, **state) -> float | None:
        """Look until it is to be killed; each look it has used so many seconds more."""
        passed = 0.0
        while passed < seconds:
            passed += elapsed
            self.used_s += used
            if self.detector.look(elapsed, Activity(self.used_s, **state), starting=self.starting) is not None:
                return passed
        return None


def test_one_that_does_nothing_for_five_seconds_after_an_answer_is_hung():
    assert 5.0 <= Watched().answer().killed_after(60) <= 6.0


def test_an_answer_ends_the_silence():
    watched = Watched().answer()
    for _ in range(10):
        assert watched.killed_after(4.5) is None
        watched.answer()


@pytest.mark.parametrize("doing", [{"used": 0.1}, {"used": 4.0}, {"on_disk": True}])
def test_a_part_that_computes_or_waits_for_a_cpu_or_a_disk_gets_more_time_up_to_a_limit(doing):
    assert 19.5 <= Watched().answer().killed_after(60, **doing) <= 21.0


def test_a_stop_of_the_supervisor_kills_nothing():
    watched = Watched().answer()
    assert watched.killed_after(120, elapsed=120) is None
    watched.answer()
    assert watched.killed_after(4.0) is None


def test_looks_that_come_late_count_as_looks_in_time():
    """With three seconds between two looks the machine has no time for the part either."""
    assert Watched().answer().killed_after(60, elapsed=3.0) >= 15.0


def test_a_start_that_does_nothing_is_hung_after_five_seconds():
    assert Watched().killed_after(60) <= 6.0


@pytest.mark.parametrize("doing", [{"used": 0.1}, {"on_disk": True}])
def test_a_start_that_does_something_has_its_whole_limit(doing):
    assert 29.5 <= Watched().killed_after(60, **doing) <= 31.0


def test_a_start_that_answers_but_never_becomes_ready_ends_at_its_limit():
    watched = Watched()
    for _ in range(100):
        watched.detector.answered()
        if watched.killed_after(LOOK_S) is not None:
            return
    pytest.fail("never killed")


def test_a_start_is_not_timed_while_another_part_is_the_cause():
    watched = Watched()
    watched.starting = False
    watched.detector.answered()
    for _ in range(1200):
        watched.detector.answered()
        assert watched.killed_after(LOOK_S) is None
    assert watched.killed_after(60) <= 6.0, "but it may hang"


def test_a_part_that_answers_from_its_crash_handler_is_killed():
    watched = Watched().answer()
    passed = 0.0
    while passed < 60:
        watched.detector.answered()
        passed += LOOK_S
        if watched.killed_after(LOOK_S, crashing=True) is not None:
            break
    assert 4.5 <= passed <= 5.5


@pytest.mark.parametrize(("crash_handler", "read"), [(False, 0), (True, 20)])
def test_the_activity_of_a_part_that_answers_is_read_for_its_crash_handler_only_and_seldom(crash_handler, read):
    detector = HangDetector(HangLimits(), 30.0, crash_handler=crash_handler)
    looks = []
    for number in range(100):
        if number % 2 == 0:
            detector.answered()
        looks.append(detector.needs_activity)
        detector.look(LOOK_S, Activity() if looks[-1] else None, starting=False)
    assert sum(looks) == read


def test_without_figures_of_the_kernel_the_longer_limits_hold():
    detector = HangDetector(HangLimits(), 30.0)
    detector.answered()
    looks = [detector.look(LOOK_S, None, starting=False) for _ in range(41)]
    assert [why is not None for why in looks].index(True) in (39, 40)


def thread(folder, number, *, state="S", ran=0, waited=0, faults=0, blocked=0, process=7):
    thread = folder / str(process) / "task" / str(number)
    thread.mkdir(parents=True)
    (thread / "schedstat").write_text(f"{ran} {waited} 5\n")
    fields = [state, *["0"] * 8, str(faults), *["0"] * 30]
    (thread / "stat").write_text(f"7 (a ) name) {' '.join(fields)}\n")
    (thread / "status").write_text(f"Name:\tx\nSigBlk:\t{blocked:016x}\n")


def bits(*numbers):
    return sum(1 << (number - 1) for number in numbers)


def test_the_threads_of_a_process_are_added_up(tmp_path):
    thread(tmp_path, 7, ran=1_000_000_000, waited=500_000_000)
    thread(tmp_path, 8, ran=2_000_000_000, state="D")
    assert read_activity(7, proc=tmp_path) == Activity(3.5, on_disk=True)
    assert read_activity(9, proc=tmp_path) is None


def test_the_children_of_a_process_are_added_where_they_do_its_work(tmp_path):
    thread(tmp_path, 7, ran=1_000_000_000, state="T")
    for process, parent in ((7, 1), (8, 7), (9, 7), (10, 8)):
        thread(tmp_path, process + 100, ran=2_000_000_000, process=process)
        (tmp_path / str(process) / "stat").write_text(f"{process} (a ) name) S {parent} 0\n")
    (tmp_path / "self").mkdir()
    assert read_activity(7, proc=tmp_path) == Activity(3.0)
    assert read_activity(7, children=True, proc=tmp_path) == Activity(7.0)


@pytest.mark.parametrize(
    ("blocked", "crashing"),
    [
        (0, False),
        (bits(6), True),
        (bits(11), True),
        (bits(6, 11), True),
        (bits(13, 17), False),
        (2**64 - 1, False),
        (bits(4, 6, 7, 8, 11), False),
    ],
)
def test_a_crash_handler_is_known_by_the_one_signal_that_its_thread_blocks(tmp_path, blocked, crashing):
    thread(tmp_path, 7)
    thread(tmp_path, 8, blocked=blocked)
    assert read_activity(7, crash_handler=True, proc=tmp_path).crashing == crashing
    assert not read_activity(7, proc=tmp_path).crashing
