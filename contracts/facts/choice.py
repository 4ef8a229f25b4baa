"""Which variant a release goes on with, and why not with the others."""

from ..codes import Code
from ..policy import Objective
from ..vocabulary import Contract, Variant, Verdict


class Contender(Contract):
    """A requested variant, what was measured of it, and why it was chosen or not; what was not measured is absent.

    `perplexity_ratio` (through the serving engine: `served_perplexity_ratio`) and `mean_kl` are against the merged
    model, `size_ratio` is against its weights. `on_front` says that no other variant that passed is at least as good in
    everything and better in something.
    """

    variant: Variant
    verdict: Verdict
    code: Code | None = None
    reason: str
    on_front: bool = False
    size_bytes: int | None = None
    size_ratio: float | None = None
    perplexity_ratio: float | None = None
    served_perplexity_ratio: float | None = None
    mean_kl: float | None = None
    ttft_p50_ms: float | None = None
    ttft_p95_ms: float | None = None
    tps_system: float | None = None


class Choice(Contract):
    """The variants of a release side by side; `criteria` is the order in which they were compared.

    Without a winner none passed, or some were not judged yet.
    """

    objective: Objective
    criteria: tuple[str, ...]
    winner: Variant | None = None
    candidates: tuple[Contender, ...]
