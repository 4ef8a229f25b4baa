"""Identifies the person of a request by the session, and checks CSRF tokens."""

import hmac
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.console.adapters.people import People
from services.console.adapters.sessions import LONGEST, Session, Sessions
from services.console.domain.people import Person

CSRF_FIELD: Final = "csrf"


@dataclass(frozen=True)
class SignedIn:
    """A signed-in person with the session."""

    person: Person
    session: Session


class NotSignedInError(Exception):
    """The request has no valid session."""


class Access:
    """Finds the person of a request.

    Args:
        sessions: The sessions.
        people: The people who may sign in; a removed person loses access at once.
        https: Whether the session cookie is sent over TLS only.

    Attributes:
        keys: People's gateway API keys by CSRF token, in memory only.
    """

    def __init__(self, sessions: Sessions, people: People, *, https: bool) -> None:
        self.sessions, self.people, self._https = sessions, people, https
        self.keys: dict[str, str] = {}
        self.cookie = "__Host-slipway" if https else "slipway-console"

    def find(self, request: Request) -> SignedIn | None:
        """Return the signed-in person and extend the session; None without a session."""
        return self._named(self.sessions.find(request.cookies.get(self.cookie)))

    def look(self, request: Request) -> SignedIn | None:
        """Return the signed-in person without extending the session; None without a session."""
        return self._named(self.sessions.find(request.cookies.get(self.cookie), use=False))

    def _named(self, session: Session | None) -> SignedIn | None:
        person = self.people.find(session.person) if session is not None else None
        return SignedIn(person, session) if session is not None and person is not None else None

    def begin(self, request: Request, response: Response, person: str) -> None:
        """Begin a person's session under a new value, against session fixation."""
        value = self.sessions.begin(person, request.cookies.get(self.cookie))
        for ended in self.keys.keys() - self.sessions.tokens():
            del self.keys[ended]
        response.set_cookie(
            self.cookie,
            value,
            max_age=int(LONGEST.total_seconds()),
            path="/",
            secure=self._https,
            httponly=True,
            samesite="strict",
        )

    def end(self, request: Request, response: Response) -> None:
        """End a request's session."""
        self.sessions.end(request.cookies.get(self.cookie))
        response.delete_cookie(self.cookie, path="/", secure=self._https, httponly=True, samesite="strict")


def signed_in(request: Request) -> SignedIn:
    """Return the signed-in person.

    Raises:
        NotSignedInError: The request has no valid session.
    """
    signed = access_of(request).find(request)
    if signed is None:
        raise NotSignedInError
    return signed


def access_of(request: Request) -> Access:
    """Return the application's `Access`."""
    access: Access = request.app.state.access
    return access


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a URL-encoded form.

    Raises:
        HTTPException: The body is not valid UTF-8, or has more than 50 fields.
    """
    body = await request.body()
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=50))
    except ValueError as error:
        raise HTTPException(400, "The form cannot be read.") from error


def check_token(signed: SignedIn, given: str | None) -> None:
    """Check an order's CSRF token, which pages of other sites do not know.

    Raises:
        HTTPException: The token is missing or wrong.
    """
    if given is None or not hmac.compare_digest(given.encode(), signed.session.csrf.encode()):
        raise HTTPException(403, "The order has not the token of this session: reload the page, and order again.")


Signed = Annotated[SignedIn, Depends(signed_in)]
