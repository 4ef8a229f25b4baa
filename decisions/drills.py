"""Rules of drills: when one is in progress, and the text of its fault."""

from datetime import datetime

from contracts.drills import LONGEST, Drill
from contracts.facts import DrillFault


def is_in_progress(drill: Drill, now: datetime) -> bool:
    """Return whether a drill is in progress; a wrong clock cannot make it last longer than `LONGEST`."""
    return drill.share_ratio > 0.0 and now < min(drill.expires_at, drill.starts_at + LONGEST)


def describe_fault(fault: DrillFault) -> str:
    """Return a fault as it is typed on the command line."""
    parts = {
        f"delay_ms={fault.delay_ms}": fault.delay_ms,
        f"error_ratio={fault.error_ratio:g}": fault.error_ratio,
        "garble": fault.garble,
        f"answer={fault.answer}": fault.answer,
        f"token_delay_ms={fault.token_delay_ms}": fault.token_delay_ms,
        f"queue_delay_ms={fault.queue_delay_ms}": fault.queue_delay_ms,
        f"output_tokens={fault.output_tokens}": fault.output_tokens is not None,
        f"logprob_shift={fault.logprob_shift:g}": fault.logprob_shift,
        "nan_logits": fault.nan_logits,
    }
    return " ".join(name for name, on in parts.items() if on) or "nothing"
