"""The steps that services attest, and which of them a policy and a version require."""

from typing import Annotated, Final, Literal, get_args

from pydantic import StringConstraints

from ..vocabulary import Contract

Step = Literal["merge", "quantise", "register", "benchmark", "evaluate", "rehearse", "approve", "deploy", "audit"]
STEPS: Final[tuple[Step, ...]] = get_args(Step)
"""`audit` is no step of a version: the registry signs the audit log."""
RequiredStep = Literal["merge", "quantise", "benchmark", "evaluate", "rehearse", "approve"]
AttesterPattern = Annotated[
    str, StringConstraints(pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?|[0-9a-f]{64})$", max_length=64)
]
"""A service's name, or the full id of one key (64 hexadecimal digits)."""


class RequiredAttestations(Contract):
    """The attestations that a version needs before it takes traffic, by its policy at registration.

    Attributes:
        steps: The steps; each is attested of the variant that takes traffic, or of what it was made of.
        attesters: Services or key ids that may attest a step; a step that is not named takes those of the list of keys.
        approvals: Approvals by different users, if `approve` is among the steps.
    """

    steps: tuple[RequiredStep, ...] = ("merge", "quantise", "benchmark")
    attesters: dict[RequiredStep, tuple[AttesterPattern, ...]] = {}
    approvals: int = 1
