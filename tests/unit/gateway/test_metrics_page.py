"""The page of the metrics: rendered in a thread, never twice at the same time, and never older than the request."""

import asyncio
import threading

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from starlette.applications import Starlette
from starlette.routing import Mount

from services.gateway.app import current_metrics
from services.gateway.server.metrics_page import MetricsPage


class SlowCollector:
    """A gauge whose collection takes a while; notes where it is collected, and how often at the same time."""

    def __init__(self) -> None:
        self.value = 0.0
        self.threads, self.running, self.most = [], 0, 0
        self.has_read = threading.Event()

    def collect(self):
        self.threads.append(threading.current_thread())
        self.running += 1
        self.most = max(self.most, self.running)
        value = self.value
        self.has_read.set()
        threading.Event().wait(0.1)
        self.running -= 1
        yield GaugeMetricFamily("keel", "A gauge", value=value)


class State:
    def refresh(self) -> None:
        """Export nothing."""


@pytest.fixture
def collector():
    return SlowCollector()


@pytest.fixture
async def http(collector):
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    collector.threads.clear()
    application = Starlette(routes=[Mount("/metrics", current_metrics(MetricsPage(registry), State()))])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://gateway") as client:
        yield client


async def test_it_is_rendered_in_a_thread(http, collector):
    page = await http.get("/metrics/")
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/plain")
    assert "keel 0.0\n" in page.text
    assert collector.threads[0] is not threading.main_thread()


async def test_many_callers_cost_two_pages(http, collector):
    first = asyncio.ensure_future(http.get("/metrics/"))
    await asyncio.to_thread(collector.has_read.wait)
    collector.value = 1.0
    pages = await asyncio.gather(*(http.get("/metrics/") for _ in range(20)))
    assert "keel 0.0\n" in (await first).text
    assert all("keel 1.0\n" in page.text for page in pages), "a page is not older than its request"
    assert (len(collector.threads), collector.most) == (2, 1)


async def test_pages_in_several_forms_are_rendered_one_after_the_other(http, collector):
    forms = [{"accept": "application/openmetrics-text"}, {"accept-encoding": "gzip"}, {"accept-encoding": "identity"}]
    pages = await asyncio.gather(*(http.get("/metrics/", headers=form) for form in forms))
    assert pages[0].headers["content-type"].startswith("application/openmetrics-text")
    assert [page.headers.get("content-encoding") for page in pages[1:]] == ["gzip", None]
    assert "keel 0.0\n" in pages[1].text
    assert collector.most == 1


async def test_callers_that_ask_in_many_ways_cost_no_more_than_those_that_ask_in_one(http, collector):
    first = asyncio.ensure_future(http.get("/metrics/"))
    await asyncio.to_thread(collector.has_read.wait)
    accepts = [f"application/openmetrics-text; version=1.0.{number}" for number in range(10)]
    accepts += [f"text/plain; version=0.0.{number}" for number in range(10)] + [
        "application/openmetrics-text; version=x"
    ]
    pages = await asyncio.gather(*(http.get("/metrics/", headers={"accept": accept}) for accept in accepts))
    assert {page.status_code for page in pages} == {(await first).status_code} == {200}
    assert len(collector.threads) == 3


async def test_a_caller_that_leaves_does_not_take_the_page_of_the_others(http, collector):
    callers = [asyncio.ensure_future(http.get("/metrics/")) for _ in range(3)]
    await asyncio.to_thread(collector.has_read.wait)
    callers[0].cancel()
    assert [(await caller).status_code for caller in callers[1:]] == [200, 200]


async def test_a_page_that_cannot_be_rendered_does_not_stop_the_next(http, collector):
    collector.has_read = None
    with pytest.raises(AttributeError):
        await http.get("/metrics/")
    collector.has_read = threading.Event()
    assert (await http.get("/metrics/")).status_code == 200
