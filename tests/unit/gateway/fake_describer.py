"""A stand-in for the process that describes texts; it passes the conformance suite of the real one."""

import asyncio
from dataclasses import dataclass, field

from services.gateway.domain.features import describe_excerpts


@dataclass
class FakeDescriber:
    """Describes at once; no output of `failing` is described, and while `stuck` is set nothing returns."""

    failing: set[str] = field(default_factory=set)
    stuck: bool = False
    batches: list[int] = field(default_factory=list)

    async def describe(self, texts):
        self.batches.append(len(texts))
        if self.stuck:
            await asyncio.Event().wait()
        return [None if text.output in self.failing else describe_excerpts(text) for text in texts]
