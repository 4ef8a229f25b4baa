"""When a part counts as hung: silence, starvation, a late supervisor, a start that does nothing, a crash handler."""

import pytest

from deploy.local.watch import Activity, HangDetector, HangLimits, read_activity

LOOK_S = 0.5
IDLE = Activity(ran_s=1.0)


class Watched:
    """A hang detector on a clock that is turned by hand."""

    def __init__(self, *, start_limit_s: float = 30.0, leaving_s: float = 10.0, recovers: bool = False) -> None:
        self.detector = HangDetector(HangLimits(), start_limit_s, leaving_s, recovers=recovers)
        self.waits_for_dependency = False
        self.activity: Activity | None = IDLE
        self.ready = False
        self.dependencies_ready = True

    def answer(self) -> "Watched":
        self.detector.answered()
        self.ready = True
        return self

    def situation(self) -> dict[str, bool]:
        return {
            "ready": self.ready,
            "dependencies_ready": self.dependencies_ready,
            "waits_for_dependency": self.waits_for_dependency,
        }

    def killed_after(self, seconds: float, *, ran=0.0, waited=0.0, elapsed=LOOK_S, faults=0) -> float | None:
        """Look until it is to be killed; each look it has run and waited for so many seconds more."""
        passed = 0.0
        while passed < seconds:
            passed += elapsed
            if self.activity is not None:
                self.activity = Activity(
                    self.activity.ran_s + ran,
                    self.activity.waited_s + waited,
                    self.activity.faults + faults,
                    self.activity.stopped,
                    self.activity.on_disk,
                    self.activity.crashing,
                )
            if self.detector.look(elapsed, self.activity, **self.situation()) is not None:
                return passed
        return None


def test_silent_for_five_seconds_after_an_answer_is_hung():
    assert 5.0 <= Watched().answer().killed_after(60) <= 5.5


def test_an_answer_ends_the_silence():
    watched = Watched().answer()
    for _ in range(10):
        assert watched.killed_after(4.5) is None
        watched.answer()


def test_a_stopped_part_is_killed_whether_it_was_ready_or_not():
    for watched in (Watched(), Watched().answer()):
        watched.activity = Activity(stopped=True)
        assert watched.killed_after(60) <= 5.5


@pytest.mark.parametrize(
    "doing", [{"ran": 0.01, "waited": 0.49}, {"ran": 0.25, "waited": 0.25}, {"ran": 0.5}, {"ran": 2.0}, {"faults": 3}]
)
def test_a_part_that_computes_or_waits_for_a_cpu_or_a_disk_gets_more_time_up_to_a_limit(doing):
    assert 19.5 <= Watched().answer().killed_after(60, **doing) <= 21.0


def test_a_part_that_waits_in_the_kernel_for_a_disk_gets_more_time_up_to_a_limit():
    watched = Watched().answer()
    watched.activity = Activity(on_disk=True)
    assert 19.5 <= watched.killed_after(60) <= 21.0


def test_a_part_gets_as_much_more_time_as_it_was_busy():
    assert 9.0 <= Watched().answer().killed_after(60, ran=0.125, waited=0.125) <= 11.0


@pytest.mark.parametrize("state", [{"stopped": True}, {"crashing": True}])
def test_a_stopped_part_and_a_crash_handler_get_no_more_time_however_busy(state):
    watched = Watched().answer()
    watched.activity = Activity(on_disk=True, **state)
    assert watched.killed_after(60, ran=0.5, faults=3) <= 5.5


def test_a_stop_of_the_supervisor_kills_nothing():
    watched = Watched().answer()
    assert watched.killed_after(120, elapsed=120) is None
    watched.answer()
    assert watched.killed_after(4.0) is None


def test_looks_that_come_late_count_as_looks_in_time():
    """With three seconds between two looks the machine has no time for the part either."""
    assert Watched().answer().killed_after(60, elapsed=3.0) >= 15.0


def test_a_part_that_closed_its_port_has_the_time_of_a_stop():
    watched = Watched(leaving_s=40.0).answer()
    watched.detector.refused()
    assert watched.killed_after(90, waited=0.0) >= 24.5


def test_a_start_that_does_nothing_is_hung_after_five_seconds():
    assert Watched().killed_after(60) <= 6.0


@pytest.mark.parametrize("sign", [{"ran": 0.1}, {"waited": 0.2}, {"faults": 3}])
def test_a_start_that_does_something_has_its_whole_limit(sign):
    assert Watched().killed_after(29.0, **sign) is None
    if "waited" not in sign:
        assert 29.5 <= Watched().killed_after(60, **sign) <= 31.0


def test_waiting_for_a_disk_is_doing_something():
    watched = Watched()
    watched.activity = Activity(on_disk=True)
    assert watched.killed_after(29.0) is None


def test_a_start_that_answers_but_never_becomes_ready_ends_at_its_limit():
    watched = Watched()
    for _ in range(100):
        watched.detector.answered()
        if watched.killed_after(LOOK_S) is not None:
            return
    pytest.fail("never killed")


@pytest.mark.parametrize("sign", [{"ran": 0.1}, {"faults": 3}])
def test_a_part_that_recovers_its_store_may_start_slowly_while_it_makes_progress(sign):
    assert 599.0 <= Watched(recovers=True).killed_after(900, **sign) <= 601.0


def test_a_part_that_recovers_its_store_without_progress_is_killed():
    watched = Watched(recovers=True)
    assert watched.killed_after(100, ran=0.5) is None
    assert watched.killed_after(60) <= 6.0
    watched = Watched(recovers=True)
    for _ in range(240):  # it answers, and does as little as one that is idle
        watched.detector.answered()
        if watched.killed_after(LOOK_S, ran=0.01) is not None:
            break
    else:
        pytest.fail("never killed")


def test_a_part_with_many_waiting_threads_that_never_gets_ready_is_killed():
    assert 599.0 <= Watched().killed_after(900, ran=1.8, waited=4.0) <= 601.0


def test_a_part_that_waits_for_a_dependency_gets_more_time_up_to_a_limit():
    watched = Watched()
    watched.waits_for_dependency = True
    passed = 0.0
    while passed < 900:
        watched.detector.answered()
        passed += LOOK_S
        if watched.killed_after(LOOK_S) is not None:
            break
    assert 599.0 <= passed <= 601.0


def test_a_part_that_waits_for_a_dependency_and_hangs_is_killed():
    watched = Watched()
    watched.waits_for_dependency = True
    watched.detector.answered()
    assert watched.killed_after(60) <= 5.5


def test_a_start_is_not_timed_while_a_dependency_is_down():
    watched = Watched()
    watched.dependencies_ready = False
    assert watched.killed_after(600) is None


def test_a_part_that_was_ready_is_not_killed_because_the_bus_is_down():
    watched = Watched().answer()
    watched.dependencies_ready = False
    for _ in range(100):
        watched.answer()
        assert watched.killed_after(LOOK_S) is None


def test_a_part_that_answers_from_its_crash_handler_is_killed():
    watched = Watched().answer()
    watched.activity = Activity(crashing=True)
    passed = 0.0
    while passed < 60:
        watched.detector.answered()
        passed += LOOK_S
        if watched.killed_after(LOOK_S) is not None:
            assert passed <= 5.5
            return
    pytest.fail("never killed")


def test_without_figures_of_the_kernel_the_plain_limits_hold():
    watched = Watched()
    watched.activity = None
    assert 29.5 <= watched.killed_after(60) <= 31.0
    watched = Watched().answer()
    watched.activity = None
    assert watched.killed_after(60) <= 5.5


# -- reading the process table -------------------------------------------------------------------------------------------


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
    thread(tmp_path, 7, ran=1_000_000_000, waited=500_000_000, faults=2)
    thread(tmp_path, 8, ran=2_000_000_000, faults=1, state="D")
    assert read_activity(7, proc=tmp_path) == Activity(3.0, 0.5, 3, stopped=False, on_disk=True)
    assert read_activity(9, proc=tmp_path) is None


def test_the_children_of_a_process_are_added_where_they_do_its_work(tmp_path):
    thread(tmp_path, 7, ran=1_000_000_000, state="T")
    for process, parent in ((7, 1), (8, 7), (9, 7), (10, 8)):
        thread(tmp_path, process + 100, ran=2_000_000_000, process=process)
        (tmp_path / str(process) / "stat").write_text(f"{process} (a ) name) S {parent} 0\n")
    (tmp_path / "self").mkdir()
    assert read_activity(7, proc=tmp_path).ran_s == 3.0
    assert read_activity(7, children=True, proc=tmp_path) == Activity(7.0, 0.0, 0)


def test_stopped_is_what_has_every_thread_stopped(tmp_path):
    thread(tmp_path, 7, state="T")
    assert read_activity(7, proc=tmp_path).stopped
    thread(tmp_path, 8, state="S")
    assert not read_activity(7, proc=tmp_path).stopped


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
