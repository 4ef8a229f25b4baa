"""The page of the metrics: rendered in a thread, in the form that is asked for."""

import threading

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from starlette.applications import Starlette
from starlette.routing import Mount

from services.gateway.server.worker_state import MetricsPage


class Collector:
    """A gauge that notes where it is collected."""

    def __init__(self) -> None:
        self.threads, self.failing = [], False

    def collect(self):
        self.threads.append(threading.current_thread())
        if self.failing:
            raise AttributeError
        yield GaugeMetricFamily("keel", "A gauge", value=0.0)


@pytest.fixture
def collector():
    return Collector()


@pytest.fixture
async def http(collector):
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    collector.threads.clear()
    application = Starlette(routes=[Mount("/metrics", MetricsPage(registry, lambda: None))])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://gateway") as client:
        yield client


async def test_it_is_rendered_in_a_thread(http, collector):
    page = await http.get("/metrics/")
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/plain")
    assert "keel 0.0\n" in page.text
    assert collector.threads[0] is not threading.main_thread()


async def test_a_page_has_the_form_that_is_asked_for(http):
    forms = [{"accept": "application/openmetrics-text"}, {"accept-encoding": "gzip"}, {"accept-encoding": "identity"}]
    pages = [await http.get("/metrics/", headers=form) for form in forms]
    assert pages[0].headers["content-type"].startswith("application/openmetrics-text")
    assert [page.headers.get("content-encoding") for page in pages[1:]] == ["gzip", None]
    assert "keel 0.0\n" in pages[1].text


async def test_a_page_that_cannot_be_rendered_does_not_stop_the_next(http, collector):
    collector.failing = True
    with pytest.raises(AttributeError):
        await http.get("/metrics/")
    collector.failing = False
    assert (await http.get("/metrics/")).status_code == 200
