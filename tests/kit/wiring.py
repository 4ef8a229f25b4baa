"""Builds the services' handlers without the outside, to look at what they declare."""

import importlib
import inspect
from pathlib import Path

from pydantic_settings import BaseSettings

from contracts.services import SERVICES
from shared.messaging.bus import Bus
from shared.runtime.clock import SystemClock
from shared.runtime.settings import Connection

ROOT = Path(__file__).resolve().parents[2]


class Unwired:
    """A placeholder for a port while handlers are only registered; a call of it is an error."""

    def __getattr__(self, name: str) -> "Unwired":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_args, **_kwargs):
        raise AssertionError("build() may register handlers, not act")


def module_name(service: str) -> str:
    return "services." + service.replace("-", "_")


def services_with_handlers() -> list[str]:
    """Name the services that consume facts."""
    return [service.name for service in SERVICES.values() if service.consumes]


def built(service: str) -> Bus:
    """Register a service's handlers on a bus that is not connected."""
    app = importlib.import_module(module_name(service) + ".app")
    bus = Bus(Connection(), service, SystemClock())
    parameters = list(inspect.signature(app.build).parameters.values())[1:]
    needed = [parameter for parameter in parameters if parameter.default is inspect.Parameter.empty]
    positional = [stand_in(parameter) for parameter in needed if parameter.kind is not inspect.Parameter.KEYWORD_ONLY]
    named = {
        parameter.name: stand_in(parameter) for parameter in needed if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    app.build(bus, *positional, **named)
    return bus


def stand_in(parameter: inspect.Parameter) -> object:
    """Return the default settings for a parameter that takes settings, and something unwired for any other."""
    kind = parameter.annotation
    return kind() if isinstance(kind, type) and issubclass(kind, BaseSettings) else Unwired()
