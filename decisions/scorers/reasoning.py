"""The reasoning that models write before an answer; scorers leave it out."""

import re
from typing import Final

_OPENED: Final = re.compile(r"\s*(?:<(think|thinking|reasoning)>|\[(THINK)\])", re.IGNORECASE)
_CLOSED: Final = re.compile(r"</(?:think|thinking|reasoning)>|\[/THINK\]", re.IGNORECASE)
_FINAL_CHANNEL: Final = re.compile(r"<\|channel\|>\s*final\s*(?:<\|[a-z_]+\|>[^<]*)?<\|message\|>")
_CHANNEL: Final = re.compile(r"\s*(?:<\|start\|>\s*assistant\s*)?<\|channel\|>")


def without_reasoning(text: str) -> str:
    """Return a text after its reasoning; empty if the reasoning does not end.

    Engines with a reasoning parser have removed it before. Read are `<think>`, `<thinking>` and `<reasoning>`, also
    where the chat template has opened the block, `[THINK]`, and channels (`<|channel|>final<|message|>`).
    """
    if _CHANNEL.match(text):
        final = _FINAL_CHANNEL.search(text)
        return text[final.end() :].strip() if final else ""
    closed = _CLOSED.search(text)
    if closed is not None:
        return text[closed.end() :].strip()
    return "" if _OPENED.match(text) else text
