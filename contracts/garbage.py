"""How `slipway gc` removes what nothing refers to: a plan in the store, and who was first about each object."""

from typing import Final

from .vocabulary import Contract, Instant

PREFIX: Final = "gc/"
PLAN: Final = "gc/plan.json"
"""The plan that waits for its time, or is being carried out; there is one at most."""
DECISIONS: Final = "gc/decisions/"
"""What was decided about an object of a plan, create-only: `gc/decisions/ID/KEY` holds `KEPT` or `SWEPT`."""
KEPT: Final = b"kept"
"""A writer found the object and relies on it."""
SWEPT: Final = b"swept"
"""The object is being removed; no writer may rely on it. Once it is removed, the decision is removed as well."""
OPEN: Final = b"open"
"""Content of the mark of a plan, the decision about the plan itself: while it is there the plan may be carried out."""
HOLDS: Final = "holds/"
"""Objects whose names and digests hold other objects: `holds/NAME.json` keeps what it names, in any form."""
MOST_PLANNED: Final = 100_000
"""Objects that a plan names at most: every process that writes reads the plan, whole, once a minute."""
PLAN_READ_S: Final = 60.0
"""Seconds for which a writer relies on what it read about plans."""
SHORTEST_WAIT_S: Final = 2 * PLAN_READ_S
"""Seconds between the plan and the first removal, at least: by then every writer has read the plan."""
CANDIDATES: Final = (
    "attestations/",
    "blobs/",
    "checkpoints/",
    "manifests/benchmark/",
    "manifests/folder/",
    "manifests/merged/",
    "manifests/variant/",
    "sources/",
)
"""Prefixes of what may be removed; objects under other ones stay, and hold what they name."""


class GcPlan(Contract):
    """What nothing referred to, and from when on it may be removed.

    Attributes:
        id: Name of the plan; what is decided about its objects is below it.
        objects: Sizes in bytes, by key; `MOST_PLANNED` at most.
    """

    id: str
    marked_at: Instant
    sweep_after: Instant
    objects: dict[str, int]
