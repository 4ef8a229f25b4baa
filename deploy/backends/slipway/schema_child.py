"""Compile JSON schemas and grammars in forks of this process, which the kernel ends at their limits.

Input lines: a tokenizer (xgrammar's JSON), then requests `{"number", "kind", "spec"}`. Output lines: `{"number",
"outcome", "message"}`, with the outcome `ok`, `invalid` (the message says why), `costly` (the message names the limit)
or `busy` (ended by the machine). A second line with the same number, of a fork killed after its answer, is to be
ignored.
"""

import ctypes
import json
import os
import re
import resource
import signal
import sys
from typing import Any

CPU_S = 1
WALL_S = 10
MEMORY_BYTES = 512 * 2**20
COMPILED_BYTES = 32 * 2**20
CONVERSION_S = 0.25
PR_SET_PDEATHSIG = 1
_SOURCE_LINE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")
_KILLED = f"{CPU_S} s of processor time"


def main() -> None:
    """Answer requests until the input ends."""
    _end_with_parent()
    import xgrammar

    info = xgrammar.TokenizerInfo.deserialize_json(json.loads(sys.stdin.buffer.readline()))
    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _answer(compiler, request)
            os._exit(0)
        _, status, used = os.wait4(pid, 0)
        if status:
            # By the signal: what the kernel reports as used may be a tenth below what it compares with the limit.
            exceeded = os.waitstatus_to_exitcode(status) == -signal.SIGXCPU or used.ru_utime + used.ru_stime >= CPU_S
            _write(request["number"], "costly" if exceeded else "busy", _KILLED if exceeded else "")


def _answer(compiler: object, request: dict[str, Any]) -> None:
    _end_with_parent()
    _limit()
    try:
        outcome, message = _compile(compiler, request["kind"], request["spec"])
    except Exception as error:  # noqa: BLE001 - whatever the compiler does not take
        if isinstance(error, MemoryError) or "bad_alloc" in str(error):
            outcome, message = "costly", f"{MEMORY_BYTES} bytes of memory"
        else:
            outcome, message = "invalid", _SOURCE_LINE.sub("", str(error)).strip()[:300]
    _write(request["number"], outcome, message)


def _limit() -> None:
    """Let the kernel end this process at its limits."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(WALL_S)  # for a machine without processor time
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))  # SIGXCPU at the first, SIGKILL at the second
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm", encoding="ascii") as sizes:  # noqa: PTH123 - this process imports little
        used = int(sizes.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))


def _compile(compiler: object, kind: str, spec: str) -> tuple[str, str]:
    import xgrammar

    grammar = xgrammar.Grammar
    convert, compile_ = {
        "json": (grammar.from_json_schema, compiler.compile_json_schema),
        "grammar": (grammar.from_ebnf, compiler.compile_grammar),
        "lark": (grammar.from_lark, compiler.compile_lark),
        "regex": (grammar.from_regex, compiler.compile_regex),
        "structural_tag": (grammar.from_structural_tag, compiler.compile_structural_tag),
    }[kind]
    convert(spec)
    if _cpu_s() > CONVERSION_S:  # vLLM does this part on the loop that serves every request
        return "costly", f"{CONVERSION_S} s to read it"
    if compile_(spec).memory_size_bytes > COMPILED_BYTES:
        return "costly", f"{COMPILED_BYTES} bytes when compiled"
    return "ok", ""


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _write(number: int, outcome: str, message: str) -> None:
    os.write(1, json.dumps({"number": number, "outcome": outcome, "message": message}).encode() + b"\n")


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
