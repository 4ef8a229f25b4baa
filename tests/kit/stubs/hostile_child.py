"""A worker that tries to do what a file from outside could make a parser do, and reports what came of each attempt."""

import ctypes
import errno
import os
import resource
import socket
import subprocess
import threading
import time
from pathlib import Path

from shared.runtime.worker import confine, job_main

LIBC = ctypes.CDLL(None, use_errno=True)
SYS = {
    "ptrace": 101,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "io_uring_setup": 425,
    "bpf": 321,
    "userfaultfd": 323,
    "perf_event_open": 298,
    "keyctl": 250,
    "add_key": 248,
    "kexec_load": 246,
    "init_module": 175,
    "mount": 165,
    "move_mount": 429,
    "fsopen": 430,
    "chroot": 161,
    "unshare": 272,
    "setns": 308,
    "open_by_handle_at": 304,
    "pidfd_getfd": 438,
    "kcmp": 312,
    "clone": 56,
    "fork": 57,
    "vfork": 58,
    "setpriority": 141,
    "sched_setparam": 142,
    "sched_setscheduler": 144,
    "sched_setaffinity": 203,
    "ioprio_set": 251,
    "sched_setattr": 314,
    "fcntl": 72,
    "ioctl": 16,
    "clone3": 435,
    "msgget": 68,
    "seccomp_socket": 41,
    "execveat": 322,
    "syslog": 103,
    "personality": 135,
}
"""x86_64."""
OWN_LINES = {
    *("fork", "vfork", "fcntl", "ioctl", "setpriority", "ioprio_set"),
    *("sched_setparam", "sched_setscheduler", "sched_setaffinity", "sched_setattr"),
}
"""Calls that are tried with arguments of their own, or that would return twice."""


def call(name, *arguments):
    result = LIBC.syscall(SYS[name], *(ctypes.c_long(argument) for argument in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)


def attempts(folder: Path, parent: int):
    secret, outside, scratch, data = (folder / name for name in ("secret", "outside", "scratch", "input/data"))
    yield "read a key file", (secret / "id_ed25519").read_bytes
    yield "list its folder", lambda: list(secret.iterdir())
    yield "read it through a link", lambda: link_and_read(scratch / "link", secret / "id_ed25519")
    yield "link it for the parent", lambda: (scratch / "bait.json").symlink_to(secret / "id_ed25519")
    yield "link its folder for the parent", lambda: (scratch / "bait").symlink_to(secret)
    yield "link the input", lambda: os.link(data, scratch / "hard-input")
    yield "make a pipe file for the parent", lambda: os.mkfifo(scratch / "pipe")
    yield "link it", lambda: os.link(secret / "id_ed25519", scratch / "hard")
    yield "read passwords", Path("/etc/shadow").read_bytes
    yield "write outside", lambda: (outside / "x").write_text("x")
    yield "make a folder outside", (outside / "y").mkdir
    yield "move outside", lambda: (scratch / "own").rename(outside / "moved")
    yield "change the input", lambda: data.write_text("changed")
    yield "append to the input", lambda: data.open("a").write("changed")
    yield "remove the input", data.unlink
    yield "truncate the input", lambda: os.truncate(data, 0)
    yield "change our code", lambda: Path(__file__).open("r+").close()
    yield "write into a folder of all", lambda: Path(os.sep, "tmp", "slipway-hostile").write_text("x")
    for name in ("environ", "mem", "maps", "auxv", "cmdline", "fd", "root", "cwd"):
        yield f"parent's {name}", lambda name=name: read_proc(parent, name)
    yield "environment of process 1", lambda: read_proc(1, "environ")
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, socket.AF_PACKET):
        yield f"socket {family.name}", lambda family=family: socket.socket(family, socket.SOCK_DGRAM).close()
    yield "TCP socket", lambda: socket.create_connection(("127.0.0.1", 1))
    yield "socket by number", lambda: call("seccomp_socket", 2, 1, 0)
    yield "run a program", lambda: subprocess.run(["/bin/true"], check=True)
    yield "spawn a program", lambda: os.posix_spawn("/bin/true", ["true"], {})
    yield "execute a program", lambda: os.execv("/bin/true", ["true"])
    yield "execute a descriptor", lambda: call("execveat", 3, 0, 0, 0, 0)
    yield "signal the parent", lambda: os.kill(parent, 0)
    yield "limit the parent", lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE, (10, 10))
    yield "a lost capability", lambda: os.chroot(folder)
    yield "ptrace", lambda: call("ptrace", 16, parent, 0, 0)
    yield "fork", lambda: end_at_once(os.fork())
    yield "leave the group by a fork", lambda: escape(folder)
    yield "fork by number", lambda: end_at_once(call("fork"))
    yield "process by clone", lambda: end_at_once(call("clone", 17, 0, 0, 0, 0))
    yield "process by clone with shared memory", lambda: call("clone", 0x100 | 17, 1, 0, 0, 0)
    yield "socket pair AF_UNIX SOCK_DGRAM", lambda: pair(socket.SOCK_DGRAM)
    yield "socket pair AF_UNIX SOCK_SEQPACKET", lambda: pair(socket.SOCK_SEQPACKET)
    yield "priority of the parent", lambda: os.setpriority(os.PRIO_PROCESS, parent, 19)
    yield "priority of the group", lambda: os.setpriority(os.PRIO_PGRP, 0, 19)
    yield "priority of the user", lambda: os.setpriority(os.PRIO_USER, 0, 19)
    yield "processors of the parent", lambda: os.sched_setaffinity(parent, {0})
    yield "scheduler of the parent", lambda: os.sched_setscheduler(parent, os.SCHED_IDLE, os.sched_param(0))
    yield "scheduler parameters of the parent", lambda: os.sched_setparam(parent, os.sched_param(0))
    yield "scheduler attributes of the parent", lambda: call("sched_setattr", parent, 0, 0)
    yield "disk priority of the parent", lambda: call("ioprio_set", 1, parent, 3 << 13)
    yield "disk priority of the group", lambda: call("ioprio_set", 2, 0, 3 << 13)
    for command, name in ((8, "F_SETOWN"), (10, "F_SETSIG"), (15, "F_SETOWN_EX")):
        yield f"fcntl {name}", lambda command=command: call("fcntl", 0, command, parent)
    for request, name in ((0x8901, "FIOSETOWN"), (0x8902, "SIOCSPGRP")):
        yield f"ioctl {name}", lambda request=request: call("ioctl", 0, request, 0)
    yield "namespace by clone", lambda: call("clone", 0x10000000 | 17, 0, 0, 0, 0)
    numbers = {"unshare": (0x10000000,), "process_vm_readv": (parent,), "pidfd_getfd": (3, 0, 0), "kcmp": (parent, 1)}
    for name in sorted(set(SYS) - {"clone", "ptrace", "seccomp_socket", "execveat", "chroot", *OWN_LINES}):
        yield f"call {name}", lambda name=name: call(name, *(*numbers.get(name, ()), 0, 0, 0, 0, 0)[:5])


OF_THE_CONFINED = {
    *("execute a program", "a lost capability", "limit the parent", "priority of the group", "priority of the user"),
    *("process by clone with shared memory", "disk priority of the group"),
}
"""Left out unconfined: they would end or change this process or others."""


def link_and_read(link: Path, target: Path):
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    return link.read_bytes()


def end_at_once(child: int):
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def escape(folder: Path):
    """Leave a process in a group and session of its own that writes after this one has ended."""
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1.5)
            (folder / "scratch/escaped").write_text("still here")
        os._exit(0)
    os.waitpid(child, 0)


def pair(kind: int):
    for end in socket.socketpair(socket.AF_UNIX, kind):
        end.close()


def read_proc(pid: int, name: str):
    path = Path(f"/proc/{pid}/{name}")
    if name in ("fd", "root", "cwd"):
        return list(path.iterdir())
    with path.open("rb") as file:
        return file.read(1) if name != "mem" else None


def needed(folder: Path):
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    (folder / "scratch/file").write_text("x")
    (folder / "scratch/file").rename(folder / "scratch/renamed")
    pair(socket.SOCK_STREAM)
    os.nice(1)
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    return (folder / "input/data").read_text()


def outcome(attempt) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    except Exception as error:  # noqa: BLE001 - reported
        return repr(error)
    return "done"


def work(arguments):
    folder = Path(arguments[0])
    if arguments[1] == "confined":
        confine([folder / "input"], [folder / "scratch"])
    (folder / "scratch/own").write_text("x")
    return {
        "needed": outcome(lambda: needed(folder)),
        "environment": dict(os.environ),
        "outcomes": {
            name: outcome(attempt) for name, attempt in attempts(folder, os.getppid()) if select(name, arguments)
        },
    }


def select(name: str, arguments: list[str]) -> bool:
    """Leave out, unconfined, what would end or change this process or others."""
    return arguments[1] == "confined" or not (name in OF_THE_CONFINED or name.endswith("of the parent"))


if __name__ == "__main__":
    job_main(work)
