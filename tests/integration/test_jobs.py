"""Jobs as real child processes: what they report, how they die, and what is left behind (nothing)."""

import asyncio
import contextlib
import gc
import importlib.util
import os
import resource
import signal
import subprocess
import sys

import psutil
import pytest
from structlog.testing import capture_logs

from shared.errors import Permanent, Transient
from shared.runtime.jobs import ChildKilled, run_job
from shared.runtime.worker import UNUSED, importing
from testbed.servers import wait_until

CHILD = "from shared.runtime.worker import job_main, report_progress\n"


async def run(code, tmp_path, *arguments, on_progress=None, **limits):
    async def ignore(_fields):
        pass

    argv = [sys.executable, "-c", code, *arguments]
    return await run_job(argv, on_progress=on_progress or ignore, log_path=tmp_path / "logs" / "job.log", **limits)


def job(body, *, before=""):
    lines = "\n".join(f"    {line}" for line in body.strip("\n").splitlines())
    return f"{CHILD}{before}\ndef work(arguments):\n{lines}\njob_main(work)\n"


async def test_result_progress_and_arguments(tmp_path):
    seen = []

    async def on_progress(fields):
        seen.append(fields)

    code = job("for step in range(3):\n    report_progress(done=step, total=3)\nreturn {'said': arguments}")
    assert await run(code, tmp_path, "a", "b c", on_progress=on_progress) == {"said": ["a", "b c"]}
    assert seen == [{"done": step, "total": 3} for step in range(3)]


async def test_progress_arrives_while_the_work_goes_on(tmp_path):
    """The child waits for a file that only the first report of progress makes."""
    flag = tmp_path / "flag"

    async def on_progress(_fields):
        flag.touch()

    code = job(
        "import pathlib, time\nreport_progress(done=0)\nflag = pathlib.Path(arguments[0])\n"
        "while not flag.exists(): time.sleep(0.01)\nreturn {'ok': True}"
    )
    assert await run(code, tmp_path, str(flag), on_progress=on_progress, timeout_s=20) == {"ok": True}


@pytest.mark.parametrize("kind", ["Permanent", "Transient"])
async def test_reported_error_arrives_as_it_was(tmp_path, kind):
    code = job(f"raise {kind}('base_mismatch', 'Another base.', found='x')", before="from shared.errors import *")
    with pytest.raises({"Permanent": Permanent, "Transient": Transient}[kind]) as caught:
        await run(code, tmp_path)
    assert (caught.value.code, caught.value.reason) == ("base_mismatch", "Another base.")
    assert caught.value.details == {"found": "x"}


WEIGHTS_FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize("error", ["OSError(28, 'no space')", f"safetensors.SafetensorError('{WEIGHTS_FULL}')"])
async def test_error_of_a_library_is_translated_in_the_child(tmp_path, error):
    with pytest.raises(Transient) as caught:
        await run(job(f"raise {error}", before="import safetensors"), tmp_path)
    assert caught.value.code == "disk_full"


async def test_unknown_error_names_its_log_which_has_the_traceback(tmp_path):
    with pytest.raises(Permanent) as caught:
        await run(job("raise KeyError('surprise')"), tmp_path)
    assert caught.value.code == "engine_failed"
    assert "job.log" in caught.value.reason
    assert "KeyError: 'surprise'" in (tmp_path / "logs" / "job.log").read_text()


async def test_silent_exit_is_no_result(tmp_path):
    with pytest.raises(Permanent) as caught:
        await run("pass", tmp_path)
    assert (caught.value.code, caught.value.details) == ("engine_failed", {"exit_code": 0})


@pytest.mark.parametrize(
    ("crash", "exit_code"), [("os.abort", -6), ("lambda: os._exit(3)", 3), ("lambda: os.kill(os.getpid(), 9)", -9)]
)
async def test_result_of_a_child_that_then_crashed_counts(tmp_path, crash, exit_code):
    """Its work was complete: libraries may crash while the interpreter takes them down."""
    code = job(f"import atexit, os\natexit.register({crash})\nreturn {{'ok': True}}")
    with capture_logs() as logs:
        assert await run(code, tmp_path) == {"ok": True}
    assert exit_code in [entry.get("exit_code") for entry in logs]


async def test_result_of_a_child_that_then_hung_counts_at_the_timeout(tmp_path):
    code = job("import atexit, time\natexit.register(lambda: time.sleep(600))\nreturn {'ok': True}")
    assert await run(code, tmp_path, timeout_s=10) == {"ok": True}


async def test_error_of_a_child_that_then_crashed_stays_what_it_said(tmp_path):
    body = "import atexit, os\natexit.register(os.abort)\nraise Permanent('base_mismatch', 'Another base.')"
    with pytest.raises(Permanent) as caught:
        await run(job(body, before="from shared.errors import *"), tmp_path)
    assert caught.value.code == "base_mismatch"


async def test_crash_without_a_result_is_named_with_its_exit_code(tmp_path):
    with pytest.raises(Permanent) as caught:
        await run(job("import os\nos.abort()"), tmp_path)
    assert (caught.value.code, caught.value.details) == ("engine_failed", {"exit_code": -6})
    assert "signal SIGABRT: it aborted after an error that it could not handle" in caught.value.reason


@pytest.mark.parametrize("name", ["SIGILL", "SIGSEGV", "SIGBUS"])
async def test_a_child_that_dies_of_a_signal_is_told_by_its_name(tmp_path, name):
    with pytest.raises(Permanent) as caught:
        await run(job(f"import os, signal\nos.kill(os.getpid(), signal.{name})"), tmp_path)
    assert caught.value.code == "engine_failed"
    assert f"signal {name}: " in caught.value.reason


async def test_memory_limit_gives_out_of_memory(tmp_path):
    code = job("return {'size': len(bytearray(2_000_000_000))}")
    with pytest.raises(Permanent) as caught:
        await run(code, tmp_path, memory_limit_bytes=500_000_000)
    assert caught.value.code == "out_of_memory"
    assert await run(job("return {'size': len(bytearray(1_000))}"), tmp_path, memory_limit_bytes=500_000_000)


@pytest.mark.parametrize(
    "error",
    [
        "OSError(12, 'Cannot allocate memory')",
        "RuntimeError('unable to mmap 9 bytes: Cannot allocate memory (12)')",
        'RuntimeError("DefaultCPUAllocator: can\'t allocate memory")',
    ],
)
async def test_want_of_memory_is_told_however_a_library_says_it(tmp_path, error):
    with pytest.raises(Permanent) as caught:
        await run(job(f"raise {error}"), tmp_path)
    assert caught.value.code == "out_of_memory"


async def test_child_killed_from_outside_says_nothing_about_the_input(tmp_path):
    """Not Permanent: it was not killed for lack of memory, so the next attempt may succeed."""
    with pytest.raises(ChildKilled):
        await run(job("import os\nos.kill(os.getpid(), 9)"), tmp_path)


async def test_prints_of_libraries_do_not_disturb_the_protocol(tmp_path):
    code = job("print('noise'); import os; os.write(1, b'{\"result\": {\"forged\": 1}}\\n'); return {'ok': True}")
    assert await run(code, tmp_path) == {"ok": True}
    assert "noise" in (tmp_path / "logs" / "job.log").read_text()


@pytest.mark.parametrize(
    "garbage",
    [
        "not json",
        "[1, 2]",
        "7",
        "null",
        '{"other": 1}',
        '{"progress": 7}',
        '{"error": "text"}',
        '{"error": {}}',
        '{"result": 5}',
        '{"error": {"code": "nonsense"}}',
        "\\xff\\xfe",
        "",
    ],
)
async def test_garbage_on_the_channel_is_passed_over(tmp_path, garbage):
    noise = f"sys.stdout.buffer.write(b'''{garbage}\\n'''); sys.stdout.flush()\n"
    code = f'import sys\n{noise}print(\'{{"result": {{"ok": true}}}}\')\n{noise}'
    assert await run(code, tmp_path) == {"ok": True}


async def test_huge_lines_are_passed_over_and_huge_results_arrive(tmp_path):
    code = "print('x' * 20_000_000)\nprint('{\"result\": {\"ok\": true}}')"
    assert await run(code, tmp_path, timeout_s=30) == {"ok": True}
    large = await run(job("return {'text': 'y' * 3_000_000}"), tmp_path, timeout_s=30)
    assert len(large["text"]) == 3_000_000


async def test_result_too_large_for_the_channel_is_an_error_and_no_hang(tmp_path):
    with pytest.raises(Permanent) as caught:
        await run(job("return {'text': 'y' * 9_000_000}"), tmp_path, timeout_s=30)
    assert caught.value.code == "engine_failed"
    assert "result was not sent" in caught.value.reason


async def test_much_output_on_both_channels_does_not_block(tmp_path):
    seen = 0

    async def on_progress(_fields):
        nonlocal seen
        seen += 1

    code = job("for n in range(5000):\n    report_progress(done=n, pad='z' * 500)\n    print('w' * 500)\nreturn {}")
    assert await run(code, tmp_path, on_progress=on_progress, timeout_s=60) == {}
    assert seen == 5000


SLEEP = "import os, subprocess, sys, time\nopen(arguments[0], 'w').write(str(os.getpid()))\ntime.sleep(600)"


def pid_in(path):
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int(path.read_text())
    return None


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_timeout_ends_the_child_and_says_what_to_do(tmp_path):
    """Permanent: the same work would take as long again."""
    with pytest.raises(Permanent) as caught:
        await run(job(SLEEP), tmp_path, str(tmp_path / "pid"), timeout_s=2, at_timeout="Raise X.")
    assert caught.value.code == "deadline_passed"
    assert caught.value.reason == "The work was ended after its limit of 2 s. Raise X."
    assert gone(pid_in(tmp_path / "pid"))


async def test_child_that_ignores_sigterm_is_killed_at_the_timeout(tmp_path):
    code = job("import signal\nsignal.signal(15, signal.SIG_IGN)\n" + SLEEP)
    with pytest.raises(Permanent):
        await run(code, tmp_path, str(tmp_path / "pid"), timeout_s=2)
    assert gone(pid_in(tmp_path / "pid"))


async def test_cancelling_ends_the_child_and_its_children(tmp_path):
    body = "import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    body += "open(arguments[1], 'w').write(str(child.pid))\n" + SLEEP
    task = asyncio.create_task(run(job(body), tmp_path, str(tmp_path / "pid"), str(tmp_path / "grandchild")))
    await asyncio.to_thread(wait_until, lambda: pid_in(tmp_path / "pid"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(pid_in(tmp_path / "pid"))
    assert gone(pid_in(tmp_path / "grandchild"))


@pytest.mark.parametrize("error", [ZeroDivisionError, TimeoutError])
async def test_failing_progress_callback_ends_the_child_with_its_own_error(tmp_path, error):
    async def on_progress(_fields):
        raise error

    code = job("report_progress(done=1)\n" + SLEEP)
    with pytest.raises(error):
        await run(code, tmp_path, str(tmp_path / "pid"), on_progress=on_progress, timeout_s=30)
    await asyncio.to_thread(wait_until, lambda: pid_in(tmp_path / "pid") is None or gone(pid_in(tmp_path / "pid")))


async def test_grandchild_that_keeps_the_channel_open_does_not_hold_up_a_finished_job(tmp_path):
    """A forked helper inherits the channel; the job is over when its own process is."""
    body = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\n    os._exit(0)\nreturn {'ok': True}"
    assert await run(job(body), tmp_path, timeout_s=40) == {"ok": True}


def test_killing_the_parent_kills_the_child(tmp_path):
    parent = f"""
import asyncio, sys
from pathlib import Path
from shared.runtime.jobs import ChildKilled, run_job
async def ignore(_): pass
code = {job(SLEEP)!r}
argv = [sys.executable, "-c", code, sys.argv[1]]
asyncio.run(run_job(argv, on_progress=ignore, log_path=Path(sys.argv[2])))
"""
    pid_file = tmp_path / "pid"
    process = subprocess.Popen([sys.executable, "-c", parent, str(pid_file), str(tmp_path / "log")])
    try:
        child = wait_until(lambda: pid_in(pid_file), what="the child's start")
        assert not gone(child)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: gone(child), timeout_s=60, what="the child's end")
    finally:
        process.kill()
        process.wait()


async def test_environment_is_added_not_replaced(tmp_path):
    code = job("import os\nreturn {'new': os.environ['SLIPWAY_NEW'], 'path': bool(os.environ.get('PATH'))}")
    assert await run(code, tmp_path, env={"SLIPWAY_NEW": "1"}) == {"new": "1", "path": True}


async def test_jobs_run_side_by_side(tmp_path):
    """Two children that each wait for the other prove that neither blocks the loop."""
    body = (
        "import pathlib, time\nmine, other = map(pathlib.Path, arguments)\nmine.touch()\n"
        "while not other.exists(): time.sleep(0.01)\nreturn {'ok': True}"
    )
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    both = await asyncio.gather(
        run(job(body), tmp_path, a, b, timeout_s=20), run(job(body), tmp_path, b, a, timeout_s=20)
    )
    assert both == [{"ok": True}] * 2


async def test_a_child_has_its_memory_limit_and_a_group_of_its_own(tmp_path):
    body = "import os, resource\nreturn {'limit': resource.getrlimit(resource.RLIMIT_DATA), 'leads': os.getpgid(0) == os.getpid()}"
    assert await run(job(body), tmp_path, memory_limit_bytes=700_000_000) == {
        "limit": [700_000_000, 700_000_000],
        "leads": True,
    }
    assert (await run(job(body), tmp_path))["limit"] == list(resource.getrlimit(resource.RLIMIT_DATA))


LIMITED = "from shared.runtime.worker import limited_time\nimport re, time"
BACKTRACKS = "re.match(r'(a+)+$', 'a' * 40 + 'b')"


async def test_a_library_that_never_comes_back_to_python_is_ended_with_the_error_of_its_step(tmp_path):
    body = f"with limited_time(1.0, 'tokenizer_changed', 'It took too long.'):\n    {BACKTRACKS}\nreturn {{}}"
    async with asyncio.timeout(20):
        with pytest.raises(Permanent) as caught:
            await run(job(body, before=LIMITED), tmp_path)
    assert (caught.value.code, caught.value.reason) == ("tokenizer_changed", "It took too long.")


@pytest.mark.parametrize(
    ("after", "code"),
    [
        ("return {'ok': 1}", None),
        ("time.sleep(2)\nreturn {'ok': 1}", None),
        ("raise Permanent('base_mismatch', 'Another.')", "base_mismatch"),
        ("import os\nos.abort()", "engine_failed"),
    ],
)
async def test_a_step_that_ended_in_time_leaves_nothing_behind(tmp_path, after, code):
    before = f"{LIMITED}\nfrom shared.errors import *"
    body = f"with limited_time(1.0, 'tokenizer_changed', 'It took too long.'):\n    pass\n{after}"
    if code is None:
        assert await run(job(body, before=before), tmp_path) == {"ok": 1}
        return
    with pytest.raises(Permanent) as caught:
        await run(job(body, before=before), tmp_path)
    assert caught.value.code == code


async def test_an_error_inside_a_limited_step_is_the_one_that_counts(tmp_path):
    body = "with limited_time(5.0, 'tokenizer_changed', 'It took too long.'):\n    raise Permanent('base_mismatch', 'Another.')"
    with pytest.raises(Permanent) as caught:
        await run(job(body, before=f"{LIMITED}\nfrom shared.errors import *"), tmp_path)
    assert caught.value.code == "base_mismatch"


async def test_what_a_child_imports_finds_no_unused_package_and_collects_no_garbage_meanwhile(tmp_path):
    body = """
with importing():
    meanwhile = gc.isenabled()
found = [name for name in UNUSED if importlib.util.find_spec(name)]
return {"found": found, "collecting": [meanwhile, gc.isenabled()], "frozen": gc.get_freeze_count() > 0}
"""
    before = "import gc, importlib.util\nfrom shared.runtime.worker import UNUSED, importing"
    expected = {"found": [], "collecting": [False, True], "frozen": True}
    assert await run(job(body, before=before), tmp_path) == expected


def test_imports_outside_of_a_worker_are_as_usual():
    with importing():
        assert gc.isenabled()
    assert all(importlib.util.find_spec(name) for name in UNUSED)
