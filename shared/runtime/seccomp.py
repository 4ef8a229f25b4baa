"""Denies system calls to this process by libseccomp; standard library only, because restricted scripts load it."""

import ctypes
import errno
import os
from collections.abc import Callable

GROUPS: dict[str, tuple[str, ...]] = {
    "sockets": ("socket", "connect", "bind", "listen", "accept", "accept4"),
    "programs": ("execve", "execveat"),
    "new processes": ("fork", "vfork"),
    "other processes": (
        *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease", "pidfd_getfd"),
        *("kcmp", "pidfd_send_signal", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"),
    ),
    "kernel interfaces": (
        *("io_uring_setup", "io_uring_enter", "io_uring_register", "bpf", "userfaultfd", "perf_event_open"),
        *("keyctl", "add_key", "request_key", "modify_ldt", "iopl", "ioperm", "syslog", "personality"),
    ),
    "kernel and machine": (
        *(
            "kexec_load",
            "kexec_file_load",
            "init_module",
            "finit_module",
            "delete_module",
            "reboot",
            "swapon",
            "swapoff",
        ),
        *("acct", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname"),
        *("quotactl", "quotactl_fd", "vhangup"),
    ),
    "file systems and namespaces": (
        *("mount", "umount2", "move_mount", "open_tree", "fsopen", "fsmount", "fsconfig", "fspick", "mount_setattr"),
        *("pivot_root", "chroot", "unshare", "setns", "name_to_handle_at", "open_by_handle_at", "fanotify_init"),
    ),
    "shared by key": ("msgget", "semget", "shmget", "mq_open"),
}
"""System calls denied with any arguments. Allowed: files, memory, threads, pipes."""
NEW_NAMESPACES = 0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x00000080
"""Flags of `clone`: mount, cgroup, uts, ipc, user, pid, net, time."""
_THREAD = 0x00010000
"""Flag of `clone` for a thread; without it `clone` makes a process, which could outlive this one."""
_OWN_ONLY = ("sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr")
_PRIORITY_OF_PROCESS = {"setpriority": 0, "ioprio_set": 1}
"""First argument that means one process, not a group or user."""
_LIBRARY = "libseccomp.so.2"
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_THREAD_SYNC = 4
_NOT_EQUAL, _MASKED_EQUAL = 1, 7
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_FIOSETOWN, _SIOCSPGRP = 0x8901, 0x8902
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15
"""With these commands, and the two requests above, the kernel signals any process of the same user."""
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPES = 1, 1, 0xF


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


class UnavailableError(Exception):
    """A protection is not available on this machine; the message says why."""


def deny() -> None:
    """Refuse the denied system calls of this process's threads and later children with EPERM; set `no_new_privs`.

    Calls of another architecture (32 bit, x32) end the process.

    Raises:
        UnavailableError: libseccomp is not installed, or the kernel or a container forbids filters.
    """
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise UnavailableError(f"{_LIBRARY} is not installed") from error
    library.seccomp_init.restype = ctypes.c_void_p
    for name in ("seccomp_load", "seccomp_release", "seccomp_attr_set", "seccomp_rule_add_array"):
        getattr(library, name).argtypes = {
            "seccomp_attr_set": [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32],
            "seccomp_rule_add_array": [
                *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Comparison))
            ],
        }.get(name, [ctypes.c_void_p])
    context = library.seccomp_init(_ALLOW)
    if not context:
        raise UnavailableError("libseccomp does not know this processor")
    try:
        _check(library.seccomp_attr_set(context, _THREAD_SYNC, 1))
        _add_rules(library, context)
        _check(library.seccomp_load(context))
    finally:
        library.seccomp_release(context)


def _add_rules(library: ctypes.CDLL, context: int) -> None:
    def refuse(name: str, *comparisons: _Comparison, error: int = errno.EPERM) -> None:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # this processor does not have it, or it is younger than the library
            return
        array = (_Comparison * len(comparisons))(*comparisons)
        _check(library.seccomp_rule_add_array(context, _ERRNO | error, number, len(comparisons), array))

    for names in GROUPS.values():
        for name in names:
            refuse(name)
    _add_conditions(refuse)


def _add_conditions(refuse: Callable[..., None]) -> None:
    """Deny system calls with certain arguments."""
    refuse("clone3", error=errno.ENOSYS)  # its flags are behind a pointer; libraries fall back to `clone`
    for flag in NEW_NAMESPACES:
        refuse("clone", _Comparison(0, _MASKED_EQUAL, flag, flag))
    refuse("clone", _Comparison(0, _MASKED_EQUAL, _THREAD, 0))
    refuse("socketpair", _Comparison(0, _NOT_EQUAL, _AF_UNIX, 0))
    for kind in set(range(_SOCK_TYPES + 1)) - {_SOCK_STREAM}:  # one without connection can be sent to any address
        refuse("socketpair", _Comparison(1, _MASKED_EQUAL, _SOCK_TYPES, kind))
    _add_rules_of_others(refuse)


def _add_rules_of_others(refuse: Callable[..., None]) -> None:
    """Deny system calls with arguments that mean other processes."""
    for name in ("kill", "tgkill"):  # `abort` signals its own process
        refuse(name, _Comparison(0, _NOT_EQUAL, os.getpid(), 0))
    for name in ("prlimit64", *_OWN_ONLY):
        refuse(name, _Comparison(0, _NOT_EQUAL, 0, 0))  # 0: this process, or this thread
    for name, process in _PRIORITY_OF_PROCESS.items():
        refuse(name, _Comparison(0, _NOT_EQUAL, process, 0))
        refuse(name, _Comparison(1, _NOT_EQUAL, 0, 0))
    for request in (_TIOCSTI, _TIOCLINUX, _FIOSETOWN, _SIOCSPGRP):
        refuse("ioctl", _Comparison(1, _MASKED_EQUAL, 0xFFFFFFFF, request))
    for command in (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX):
        refuse("fcntl", _Comparison(1, _MASKED_EQUAL, 0xFFFFFFFF, command))


def _check(code: int) -> None:
    if code < 0:
        raise UnavailableError(f"the filter was refused: {os.strerror(-code)}")
