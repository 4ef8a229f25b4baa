"""The data of pages, limited to the models that a person may see."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from fastapi import Path
from starlette.exceptions import HTTPException

from contracts.vocabulary import MODEL_NAME_PATTERN
from services.console.adapters.index import Index
from services.console.domain.people import Person
from services.console.domain.rows import instant
from services.console.hub import Hub
from services.console.ordering import Ordering
from services.console.ports import Artifacts
from services.console.queries.reading import Reader

ModelPath = Annotated[str, Path(pattern=MODEL_NAME_PATTERN)]


@dataclass(frozen=True)
class Sources:
    """The queries and orders of the pages."""

    index: Index
    hub: Hub
    ordering: Ordering
    artifacts: Artifacts

    def seen_by(self, person: Person) -> Reader:
        """Return the index as a person may see it: a member of a team, the rows about its models."""
        return self.index if person.models is None else self.index.about(person.models)

    def week_ago(self) -> str:
        """Return the time a week ago, as the index has times."""
        return instant(self.ordering.now() - timedelta(days=7)) or ""


def check_seen(person: Person, model: str) -> None:
    """Refuse a model that a person may not see, as if there was none.

    Raises:
        HTTPException: It is not one of the person's team.
    """
    if not person.sees(model):
        raise HTTPException(404, f"There is no model {model} in the index.")
