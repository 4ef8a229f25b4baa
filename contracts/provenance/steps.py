"""The steps that services attest, and those that a version requires."""

from typing import Annotated, Final, Literal, get_args

from pydantic import StringConstraints

from ..vocabulary import Contract

Step = Literal["merge", "quantise", "register", "benchmark", "evaluate", "rehearse", "approve", "deploy", "audit"]
STEPS: Final[tuple[Step, ...]] = get_args(Step)
"""`audit` is the registry's signature of the audit log, not a step of versions."""
RequiredStep = Literal["merge", "quantise", "benchmark", "evaluate", "rehearse", "approve"]
AttesterPattern = Annotated[
    str, StringConstraints(pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?|[0-9a-f]{64})$", max_length=64)
]
"""Name of a service, or a full key id (64 hexadecimal digits)."""


class RequiredAttestations(Contract):
    """The attestations that a version's policy requires before traffic.

    Attributes:
        steps: Steps to be attested for the variant that takes traffic, or for its inputs.
        attesters: Services or key ids that may attest a step; any listed key for other steps.
        approvals: Number of approvals by different users, if `approve` is among the steps.
    """

    steps: tuple[RequiredStep, ...] = ("merge", "quantise", "benchmark")
    attesters: dict[RequiredStep, tuple[AttesterPattern, ...]] = {}
    approvals: int = 1
