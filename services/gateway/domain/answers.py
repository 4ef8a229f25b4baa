"""Objects of the OpenAI API that the gateway writes itself; answers are the engine's own bytes."""

import json
from typing import Any


def event(body: dict[str, Any]) -> bytes:
    """Return an object as a server-sent event; JSON has no line breaks, so one `data:` line is enough."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def model_card(name: str, created: int) -> dict[str, Any]:
    """Return a model as `/v1/models` lists it."""
    return {"id": name, "object": "model", "created": created, "owned_by": "slipway"}
