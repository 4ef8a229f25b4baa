"""The trace of a training job, continued by its release."""

from __future__ import annotations

import os
import re
import sys

_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def current_traceparent() -> str | None:
    """Return the W3C traceparent of the current span; None without a trace.

    The span is OpenTelemetry's current span, else from the environment variable TRACEPARENT.
    """
    api = sys.modules.get("opentelemetry.trace")
    context = api.get_current_span().get_span_context() if api is not None else None
    if context is not None and context.is_valid:
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
    given = os.environ.get("TRACEPARENT", "").strip()
    return given if _TRACEPARENT.fullmatch(given) else None
