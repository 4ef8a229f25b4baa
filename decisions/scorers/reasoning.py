"""Removal of reasoning before answers."""

import re
from typing import Final

_OPENED: Final = re.compile(r"\s*(?:<(think|thinking|reasoning)>|\[(THINK)\])", re.IGNORECASE)
_CLOSED: Final = re.compile(r"</(?:think|thinking|reasoning)>|\[/THINK\]", re.IGNORECASE)
_FINAL_CHANNEL: Final = re.compile(r"<\|channel\|>\s*final\s*(?:<\|[a-z_]+\|>[^<]*)?<\|message\|>")
_CHANNEL: Final = re.compile(r"\s*(?:<\|start\|>\s*assistant\s*)?<\|channel\|>")


def without_reasoning(text: str) -> str:
    """Return a text without its reasoning; empty if the reasoning does not end.

    Supported are `<think>`, `<thinking>`, `<reasoning>` (also opened by the chat template), `[THINK]`, and channels
    (`<|channel|>final<|message|>`).
    """
    if _CHANNEL.match(text):
        final = _FINAL_CHANNEL.search(text)
        return text[final.end() :].strip() if final else ""
    closed = _CLOSED.search(text)
    if closed is not None:
        return text[closed.end() :].strip()
    return "" if _OPENED.match(text) else text
