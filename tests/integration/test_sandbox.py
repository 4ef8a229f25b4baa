"""A worker under the control of a hostile file: what it tries is refused, and what it needs works."""

import asyncio
import ctypes
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from shared.runtime import sandbox, seccomp
from tests.kit.stubs import hostile_child

ROOT = Path(__file__).parents[2]
SECRET = "s3-secret-of-the-service"
PARENT = """
import asyncio, json, sys
from pathlib import Path
from shared.runtime import sandbox
from shared.runtime.jobs import run_job
async def ignore(_progress): pass
folder, mode = Path(sys.argv[1]), sys.argv[2]
if mode == "confined":
    sandbox.hide_memory()
argv = [sys.executable, "-m", "tests.kit.stubs.hostile_child", str(folder), mode]
print(json.dumps(asyncio.run(run_job(argv, on_progress=ignore, log_path=folder / "log", scratch=folder / "scratch"))))
"""
FILES = ("key", "folder", "link", "passwords", "outside", "input", "code", "/tmp")
REFUSALS = {"EPERM", "EACCES", "ENOSYS", "EXDEV"}
"""EXDEV: Landlock, for a link or a move between folders."""
NAMES = [name for name, _ in hostile_child.attempts(Path("/nowhere"), 1)]

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the stub has the numbers of x86_64")


def run_hostile(folder: Path, mode: str) -> dict:
    for name in ("secret", "outside", "scratch", "input"):
        (folder / name).mkdir()
    (folder / "secret/id_ed25519").write_text("private key")
    (folder / "input/data").write_text("input")
    environment = {**os.environ, "SLIPWAY_S3_SECRET_KEY": SECRET, "AWS_SECRET_ACCESS_KEY": SECRET, "HF_TOKEN": SECRET}
    environment |= {"CUDA_API_KEY": SECRET, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PARENT, str(folder), mode],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def held():
    done = subprocess.run(
        [sys.executable, "-m", "shared.runtime.sandbox"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def confined(tmp_path_factory):
    return run_hostile(tmp_path_factory.mktemp("confined"), "confined")


@pytest.mark.parametrize("name", NAMES)
def test_what_a_hostile_file_tries_is_refused(name, confined, held):
    by_landlock = any(word in name for word in FILES)
    if by_landlock and held["landlock"] != "yes":
        pytest.skip(f"no Landlock here: {held['landlock']}")
    if not by_landlock and held["seccomp"] != "yes" and "parent's" not in name:
        pytest.skip(f"no seccomp here: {held['seccomp']}")
    assert confined["outcomes"][name] in REFUSALS


def test_what_the_work_needs_is_allowed(confined):
    assert confined["needed"] == "done"


def test_no_key_is_in_the_environment(confined):
    assert SECRET not in confined["environment"].values()
    assert not [name for name in confined["environment"] if name.startswith(("SLIPWAY_S3", "AWS_", "HF_TOKEN"))]
    assert confined["environment"]["OMP_NUM_THREADS"] == "1"
    assert confined["environment"]["HOME"].endswith("scratch")


def test_the_same_attempts_succeed_without_the_sandbox(tmp_path):
    outcomes = run_hostile(tmp_path, "unconfined")["outcomes"]
    possible = {name for name, result in outcomes.items() if result == "done"}
    assert possible >= {
        *("read a key file", "write outside", "change the input", "socket AF_INET", "socket AF_UNIX", "run a program"),
        *("signal the parent", "read it through a link", "write into a folder of all"),
        *("link it for the parent", "fork", "leave the group by a fork", "socket pair AF_UNIX SOCK_DGRAM"),
    }


async def test_a_sandbox_that_is_required_is_complete_or_refused(tmp_path, held):
    environment = {**os.environ, sandbox.SETTING: sandbox.REQUIRED}
    code = "from shared.runtime.worker import confine, job_main\njob_main(lambda _: confine() or {})"
    for name in ("launched", "alone"):
        argv = [sys.executable, "-c", code]
        child = await asyncio.create_subprocess_exec(
            *argv, cwd=ROOT, env={**environment, sandbox.NETWORK_NAMESPACE: "yes" if name == "alone" else "none"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        answer = json.loads((await child.communicate())[0])
        complete = name == "alone" and all(value == "yes" for key, value in held.items() if key != "namespace")
        assert ("result" in answer) == complete
        if not complete:
            assert "SLIPWAY_SANDBOX" in answer["error"]["reason"]


OWN_USER = """
import ctypes, os, sys
from shared.runtime import sandbox
os.setgroups([]); os.setgid(10001); os.setuid(10001)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, which a change of user takes away
if sys.argv[1] == "hidden":
    sandbox.hide_memory()
child = os.fork()
if child == 0:
    try:
        open(f"/proc/{os.getppid()}/environ", "rb").read()
        os.close(os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY))
    except PermissionError:
        os._exit(1)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="it changes its user")
@pytest.mark.parametrize(("mode", "code"), [("open", 0), ("hidden", 1)])
def test_a_process_of_the_same_user_reads_memory_and_environment_only_of_a_parent_that_is_not_hidden(mode, code):
    done = subprocess.run([sys.executable, "-c", OWN_USER, mode], cwd=ROOT, check=False, timeout=60)
    assert done.returncode == code


def test_without_libseccomp_that_is_said(monkeypatch):
    monkeypatch.setattr(seccomp, "_LIBRARY", "libnothing.so.9")
    with pytest.raises(seccomp.UnavailableError, match="libnothing"):
        seccomp.deny()


def test_with_other_threads_files_are_not_limited_and_that_is_said():
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
    code += "from shared.runtime import sandbox\nprint(sandbox.enter().missing())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert "'landlock': 'other threads run already'" in done.stdout or "the kernel has no Landlock" in done.stdout


def test_every_denied_call_is_known_to_the_library():
    library = ctypes.CDLL(seccomp._LIBRARY)
    unknown = [
        name
        for names in seccomp.GROUPS.values()
        for name in names
        if library.seccomp_syscall_resolve_name(name.encode()) < 0
    ]
    assert unknown == []
