"""What the quantiser says to its child process (a job file) and hears from it (JSON lines)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from contracts.codes import Code
from contracts.facts import Quality
from contracts.vocabulary import Contract
from services.quantiser.domain import QuantisationPlan


class Job(Contract):
    """One quantisation: read `merged`, write `output`, both local folders."""

    plan: QuantisationPlan
    merged: Path
    output: Path
    calibration: Path | None = None
    threads: int | None = None


class Progress(Contract):
    """So many of so many units of a step are done."""

    kind: Literal["progress"] = "progress"
    step: str
    done: int
    total: int
    unit: str


class Done(Contract):
    """The output folder is complete, and this good; `quality` is measured on what was stored."""

    kind: Literal["done"] = "done"
    quality: Quality
    calibration_tokens: int
    peak_rss_bytes: int


class Failed(Contract):
    """The work cannot be done; a retry would end the same way."""

    kind: Literal["failed"] = "failed"
    code: Code
    reason: str


Line = Annotated[Progress | Done | Failed, Field(discriminator="kind")]

_LINE: TypeAdapter[Progress | Done | Failed] = TypeAdapter(Line)


def parse_line(line: bytes) -> Progress | Done | Failed:
    """Parse one line of the child's standard output.

    Raises:
        pydantic.ValidationError: It is not a line of this protocol.
    """
    return _LINE.validate_json(line)
