"""The form of a drill: one fault with its value, as people write them. Pure."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from contracts.facts import DrillFault
from decisions.rollback.drills import FLAGS
from services.console.domain.operating import LONGEST_MINUTES

FAULTS: Final = {
    "delay_ms": "delay before the request, in ms",
    "token_delay_ms": "delay of each token after the first, in ms",
    "queue_delay_ms": "delay that looks like the engine's queue, in ms",
    "error_ratio": "share of requests that fail, such as 0.5",
    "answer": "answer: empty, refusal or cut",
    "garble": "one word, repeated (no value)",
    "output_tokens": "tokens that telemetry reports",
    "logprob_shift": "shift of the mean log-probability, such as -2",
    "nan_logits": "NaN logits in telemetry (no value)",
}
"""Faults by their name in the contract, with what a person writes as the value."""


class DrillForm(BaseModel):
    """A drill as the form has it: a fault and its value, percent of the requests, and minutes."""

    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)

    target: Annotated[str, Field(max_length=100)] = ""
    fault: Annotated[str, Field(max_length=40)] = "delay_ms"
    value: Annotated[str, Field(max_length=40)] = ""
    percent: Annotated[float, Field(gt=0, le=100)] = 50
    minutes: Annotated[int, Field(ge=1, le=LONGEST_MINUTES)] = 2

    def parsed_fault(self) -> DrillFault:
        """Return the fault.

        Raises:
            ValueError: There is no such fault, or its value is not valid.
        """
        if self.fault not in FAULTS:
            msg = f"There is no fault {self.fault!r}: choose one of {', '.join(FAULTS)}."
            raise ValueError(msg)
        value: Any = True if self.fault in FLAGS else self.value
        return DrillFault.model_validate({self.fault: value})
