"""The monitor's references in memory."""

from services.monitor.domain.record import Reference
from shared.errors import Permanent
from testbed import factories as f


class FakeReferences:
    """References in memory; those in `damaged` are refused when they are read."""

    def __init__(self) -> None:
        self.stored: dict[str, list[tuple[Reference, dict[str, list[float]]]]] = {}
        self.damaged: set[str] = set()

    async def latest(self, target):
        stored = self.stored.get(str(target))
        return stored[-1][0] if stored else None

    async def put(self, target, columns, *, taken_at, source):
        stored = self.stored.setdefault(str(target), [])
        version = len(stored) + 1
        reference = Reference(
            version=version,
            rows=max((len(values) for values in columns.values()), default=0),
            ref=f.ref(f"{target}/{version}", "references"),
            taken_at=taken_at,
            source=source,
        )
        stored.append((reference, {name: list(values) for name, values in columns.items()}))
        return reference

    async def rows(self, reference):
        if reference.ref.uri in self.damaged:
            raise Permanent("digest_mismatch", f"{reference.ref.uri} is damaged.")
        return next(
            rows for references in self.stored.values() for known, rows in references if known.ref == reference.ref
        )
