"""What the Python clients share: they run cases one after another and print the outcome of each as a line of JSON."""

import json
import sys
from collections.abc import Callable, Mapping
from importlib import metadata

SCHEMA = {
    "title": "Count",
    "description": "Count something.",
    "type": "object",
    "properties": {"count": {"type": "integer", "enum": [1, 2, 3]}},
    "required": ["count"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "look_up", "description": "Look it up.", "strict": True, "parameters": SCHEMA},
}
TALK = [{"role": "user", "content": "Say hi."}]


def address() -> tuple[str, str]:
    """Return the base URL and the model from the command line."""
    return sys.argv[1], sys.argv[2]


def run_cases(package: str, cases: Mapping[str, Callable[[], object]]) -> None:
    """Run each case; one that raises has failed, and the others still run."""
    for name, case in cases.items():
        try:
            case()
            reason = ""
        except Exception as error:  # noqa: BLE001 - the reason is what is printed
            reason = f"{type(error).__name__}: {error}"
        outcome = {"client": package, "version": metadata.version(package), "case": name, "reason": reason}
        sys.stdout.write(json.dumps(outcome) + "\n")


def expect(condition: object, what: str) -> None:
    """Raise AssertionError unless a condition holds."""
    if not condition:
        raise AssertionError(what)
