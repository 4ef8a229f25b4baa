"""Attached servers in memory."""

import asyncio

from shared.serving.http_channel import Listed
from shared.serving.tensors import Delta
from tests.kit.conformance_serving import NAME

URLS = ("http://a", "http://b")


class Replica:
    """A server in memory: it lists `known_as`, and fails what it is asked with `failure`, if there is one.

    The likeliest next tokens have `nll` (by name `next_nll`), and `company_nats` more while it is asked others, too.
    """

    def __init__(self):
        self.known_as = {NAME}
        self.failure = None
        self.nll: float | None = 2.0
        self.company_nats = 0.0
        self.next_nll: dict[str, float | None] = {}
        self.waits = False
        self.scored = self.under_way = 0

    async def list_models(self, _limit_s):
        return dict.fromkeys(self.known_as, Listed(None, None))

    async def render(self, _name, _messages, _limit_s):
        return None

    async def stream_api(self, _name, _request, _limits):
        raise NotImplementedError
        yield

    async def generate(self, _name, _prompt, _sampling, _limits, _cache_salt):
        if self.failure is not None:
            raise self.failure
        yield Delta("keel")
        yield Delta("", "stop")

    async def score_next(self, name, _prompt, limit_s):
        self.scored, self.under_way = self.scored + 1, self.under_way + 1
        await asyncio.sleep(2 * limit_s if self.waits else 0)
        alone, self.under_way = self.under_way == 1, self.under_way - 1
        if self.failure is not None:
            raise self.failure
        nll = self.next_nll.get(name, self.nll)
        return [-(nll + (0.0 if alone else self.company_nats))] * 4 if nll is not None else []

    async def close(self):
        """Nothing is open."""


class Replicas:
    """The channels of the replicas."""

    def __init__(self):
        self.by_url = {url: Replica() for url in URLS}

    def get(self, url):
        return self.by_url[url]
