"""Which folders outside the store a model's weights may come from, as patterns of its policy."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from contracts.storage.sources import parse_file_uri, parse_hub_uri, scheme_of


def is_covered(uri: str, patterns: Iterable[str]) -> bool:
    """Return whether a pattern names this folder; names are compared exactly, in whole parts.

    Args:
        uri: `hf://organisation/name@revision` or `file:///folder`; anything else is covered by no pattern.
        patterns: As `contracts.storage.sources.check_pattern` accepts them.
    """
    try:
        if scheme_of(uri) == "hf":
            name = PurePosixPath("/" + parse_hub_uri(uri).repo)
            return any(_is_below(name, "/" + pattern.removeprefix("hf://")) for pattern in _of("hf://", patterns))
        if scheme_of(uri) == "file":
            path = parse_file_uri(uri)
            return any(_is_below(path, pattern.removeprefix("file://")) for pattern in _of("file:///", patterns))
    except ValueError:
        return False
    return False


def _of(scheme: str, patterns: Iterable[str]) -> list[str]:
    return [pattern for pattern in patterns if pattern.startswith(scheme)]


def _is_below(path: PurePosixPath, pattern: str) -> bool:
    folder = PurePosixPath(pattern.removesuffix("/*"))
    return folder in path.parents if pattern.endswith("/*") else path == folder
