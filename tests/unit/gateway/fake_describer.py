"""A stand-in for the process that describes texts; it passes the conformance suite of the real one."""

import asyncio
from dataclasses import dataclass, field

from services.gateway.domain import features
from services.gateway.domain.excerpts import Excerpts
from shared.serving.languages import recognise


def describe(asked, output):
    """Return the features of a request without a form, as the real process computes them."""
    return features.describe(Excerpts.of(asked, output), recognise).features


@dataclass
class FakeDescriber:
    """Describes at once; no output of `failing` is described, and while `stuck` is set nothing returns."""

    failing: set[str] = field(default_factory=set)
    stuck: bool = False
    batches: list[int] = field(default_factory=list)
    texts: list[Excerpts] = field(default_factory=list)

    async def describe(self, texts):
        self.batches.append(len(texts))
        self.texts += texts
        if self.stuck:
            await asyncio.Event().wait()
        return [None if text.output in self.failing else features.describe(text, recognise) for text in texts]
