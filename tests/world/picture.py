"""The lines of a story as a picture: a column for each process, and who did what when."""

import re
from collections.abc import Iterable, Iterator

_OF_A_PROCESS = re.compile(r" *(?P<at>[0-9.]+) (?P<who>[a-z-]+)#(?P<life>[0-9]+):? (?P<what>.*)")
_WORDS = (
    (re.compile(r"(publish|acknowledge) slipway\.(.+)\.v1\.\S+"), r"\1 \2"),
    (re.compile(r"(publish|purge) \$KV\.([^.]+)\.?(\S*)"), r"write \2 \3"),
)
_RENEWAL = re.compile(r"publish \$KV\.servers\.\S+\.(leader|runtimes)$")
STARTS, DIES = "starts", ("dies", "is killed", "ends")


def draw(lines: Iterable[str]) -> Iterator[str]:
    """Yield a head, and then each line: `|` is a process that lives, `*` the one that acts, `x` one that dies.

    Renewals of the lease are left out.
    """
    lines = list(lines)
    found_in = filter(None, map(_OF_A_PROCESS.match, lines))
    column = {seat: number for number, seat in enumerate(dict.fromkeys(found["who"] for found in found_in))}
    for service, number in column.items():
        yield " " * 10 + "| " * number + service
    lives = [False] * len(column)
    for line in lines:
        found = _OF_A_PROCESS.match(line)
        marks = ["|" if alive else " " for alive in lives]
        if found is None:
            at, _, what = line.lstrip().partition(" ")
        else:
            at, what, number = found["at"], found["what"], column[found["who"]]
            if _RENEWAL.search(what):
                continue
            lives[number] = not what.startswith(DIES) and (lives[number] or what == STARTS)
            marks[number] = "x" if what.startswith(DIES) else "o" if what == STARTS else "*"
            what = f"{found['who']}#{found['life']} {_in_words(what)}"
        yield f"{float(at):9.3f} {' '.join(marks)}  {what}"


def _in_words(what: str) -> str:
    for pattern, words in _WORDS:
        what = pattern.sub(words, what)
    return what
