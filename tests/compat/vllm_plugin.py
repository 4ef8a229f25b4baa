"""A pytest plugin that points vLLM's own tests at a server that runs already; the interpreter that loads it has vLLM.

`RemoteOpenAIServer` of vLLM's `tests/utils.py` starts no server with it, and its clients speak to `SLIPWAY_COMPAT_URL`. Tests
that ask no server are left out. The outcome of each test goes to the file `SLIPWAY_COMPAT_REPORT` as a line of JSON.
"""

import importlib
import inspect
import json
import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest

URL = os.environ["SLIPWAY_COMPAT_URL"]
KEY = os.environ["SLIPWAY_COMPAT_KEY"]
REPORT = Path(os.environ["SLIPWAY_COMPAT_REPORT"])
MODEL_FOLDER = os.environ["SLIPWAY_COMPAT_MODEL_FOLDER"]
SERVERS = ("server", "client")
"""Parts of the names of vLLM's fixtures that start a server or ask one."""


class Downloaded:
    """What the hub's client is here: each repository is the folder of the served model."""

    def snapshot_download(self, *_args, **_options) -> str:
        return MODEL_FOLDER


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config) -> None:
    """Replace the hub's client before a conftest imports it."""
    from vllm.transformers_utils import repo_utils

    repo_utils.hf_api = Downloaded


def pytest_configure(config) -> None:
    """Replace how vLLM's tests start a server."""
    utils = importlib.import_module("tests.utils")  # vLLM's own: the folder of its tests comes first
    utils.RemoteVLLMServer.__init__ = RunningServer.__init__
    utils.RemoteVLLMServer._shutdown = RunningServer._shutdown
    utils.RemoteVLLMServer.DUMMY_API_KEY = KEY
    _present_key()


def _present_key() -> None:
    """Let plain requests to the server present the key, too: vLLM's tests send many without its OpenAI clients."""
    import requests
    from httpx._client import BaseClient

    address = urlsplit(URL).netloc
    build, prepare = BaseClient.build_request, requests.Session.prepare_request

    def build_request(self, *args, **options):
        request = build(self, *args, **options)
        if request.url.netloc.decode() == address:
            request.headers.setdefault("authorization", f"Bearer {KEY}")
        return request

    def prepare_request(self, request):
        prepared = prepare(self, request)
        if urlsplit(prepared.url).netloc == address:
            prepared.headers.setdefault("authorization", f"Bearer {KEY}")
        return prepared

    BaseClient.build_request, requests.Session.prepare_request = build_request, prepare_request


class RunningServer:
    """What takes the place of the methods of vLLM's class that start and stop a server: nothing is started."""

    def __init__(self, *_args, **_options) -> None:
        target = urlsplit(URL)
        self.uds, self.host, self.port = None, target.hostname, target.port
        self.show_hidden_metrics = False

    def _shutdown(self) -> None:
        """Leave the server running."""


def pytest_collection_modifyitems(config, items) -> None:
    """Leave out the tests that ask no server, and those of models that the run does not name."""
    models = config.getoption("--models", None)  # an option of vLLM's tests of tools
    left = [item for item in items if not _asks_a_server(item) or _of_another_model(item, models)]
    items[:] = [item for item in items if item not in left]
    config.hook.pytest_deselected(items=left)


def _asks_a_server(item) -> bool:
    names = getattr(item, "fixturenames", ())
    return any(part in name for name in names for part in SERVERS) or "RemoteOpenAIServer" in inspect.getsource(
        item.obj
    )


def _of_another_model(item, models) -> bool:
    callspec = getattr(item, "callspec", None)
    return models is not None and callspec is not None and callspec.params.get("server_config", models[0]) not in models


def pytest_runtest_logreport(report) -> None:
    """Write the outcome of a test, once: of its call, or of what failed or was skipped before or after it."""
    if report.when != "call" and report.passed:
        return
    reason = ""
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = crash.message if crash else str(report.longrepr)
    elif report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
    outcome = {"test": report.nodeid, "outcome": report.outcome, "when": report.when, "reason": reason}
    with REPORT.open("a") as file:
        file.write(json.dumps(outcome) + "\n")


def pytest_collectreport(report) -> None:
    """Write a file that could not be collected."""
    if report.failed:
        with REPORT.open("a") as file:
            file.write(
                json.dumps(
                    {"test": report.nodeid, "outcome": "failed", "when": "collect", "reason": str(report.longrepr)}
                )
                + "\n"
            )
