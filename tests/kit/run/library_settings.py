"""How the tests use some modules: set when a module is imported for the first time, so that a test without it does not pay for it."""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from tests.kit.soak import TIMES, often


def set_hypothesis(hypothesis: Any) -> None:
    """Draw the same examples at each run, so that one fails by what was changed; `make soak-tests` draws others."""
    hypothesis.settings.register_profile("fast", max_examples=often(100), deadline=None, derandomize=True)
    hypothesis.settings.register_profile(
        "soak", max_examples=often(100), deadline=None, derandomize=False, print_blob=True
    )
    hypothesis.settings.load_profile("soak" if TIMES > 1 else "fast")


def set_structlog(structlog: Any) -> None:
    """Show logged exceptions without rich, which takes a second of processor time for each."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ]
    )


def set_forked(forked: Any) -> None:
    """Let tests fork services and commands."""
    forked.allow()


SETTINGS = {"hypothesis": set_hypothesis, "structlog": set_structlog, "testbed.forked": set_forked}


class SettingLoader(Loader):
    """Loads a module, and sets it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return what the module's own loader creates."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then set it."""
        self._loader.exec_module(module)
        SETTINGS[module.__name__](module)


class SettingFinder(MetaPathFinder):
    """Finds the modules that are set, with the finders after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module that is set when it is imported; None for any other."""
        if fullname not in SETTINGS:
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in others if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = SettingLoader(spec.loader)
        return spec


def pytest_configure() -> None:
    """Set what is imported already, and the rest when it is."""
    for name in SETTINGS.keys() & sys.modules.keys():
        SETTINGS[name](sys.modules[name])
    sys.meta_path.insert(0, SettingFinder())


def pytest_collection_finish(session: Any) -> None:
    """Leave out the plugin of hypothesis, which imports it for its summary, where no test has imported it."""
    if "hypothesis" not in sys.modules:
        session.config.pluginmanager.unregister(name="hypothesispytest")
