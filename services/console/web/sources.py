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
    """Queries and orders of the pages."""

    index: Index
    hub: Hub
    ordering: Ordering
    artifacts: Artifacts

    def seen_by(self, person: Person) -> Reader:
        """Return the index reader of a person: for a team member, only rows about the team's models."""
        return self.index if person.models is None else self.index.about(person.models)

    def week_ago(self) -> str:
        """Return the time a week ago in the index's format."""
        return instant(self.ordering.now() - timedelta(days=7)) or ""


def check_seen(person: Person, model: str) -> None:
    """Answer 404 for a model that a person may not see.

    Raises:
        HTTPException: The person may not see the model.
    """
    if not person.sees(model):
        raise HTTPException(404, f"There is no model {model} in the index.")
