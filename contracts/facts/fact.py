"""The base class of all facts."""

from typing import ClassVar

from ..vocabulary import Contract


class Fact(Contract):
    """The `data` of an event; `TYPE` is its CloudEvents type, its version included."""

    TYPE: ClassVar[str]
