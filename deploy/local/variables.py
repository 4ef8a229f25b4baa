"""Check of the variables that configure the services of the embedded stack."""

import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsError

from shared.runtime.settings import Connection, SourceSettings, describe_refused, refused_variables


def find_refused(services: Iterable[str], inherited: Mapping[str, str]) -> str | None:
    """Return the invalid variables of these services, with the allowed values; None if all are valid.

    Args:
        services: names of the services; settings without any variable are not read.
        inherited: the variables that services inherit.
    """
    refused: dict[str, str] = {}
    configured = [name for name in services if any(variable.startswith(_prefix(name)) for variable in inherited)]
    kinds: list[type[BaseSettings]] = [Connection, SourceSettings]
    for kind in kinds + [kind for service in configured for kind in _classes_of(service)]:
        try:
            kind()
        except (ValidationError, SettingsError) as error:
            problems = refused_variables(kind, error).items()
            refused |= {variable: problem for variable, problem in problems if not variable or variable in inherited}
    return describe_refused(refused) if refused else None


def _prefix(service: str) -> str:
    return service.replace("-", "_").upper() + "_"


def _classes_of(service: str) -> Iterator[type[BaseSettings]]:
    module = importlib.import_module(f"services.{service.replace('-', '_')}.settings")
    for member in vars(module).values():
        if inspect.isclass(member) and issubclass(member, BaseSettings) and member.__module__ == module.__name__:
            yield member
