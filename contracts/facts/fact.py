"""What all facts have in common."""

from typing import ClassVar

from ..vocabulary import Contract


class Fact(Contract):
    """The `data` of an event; `TYPE` is its CloudEvents type, its version included."""

    TYPE: ClassVar[str]
