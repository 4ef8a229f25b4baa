"""Who a request is by: its session, and the token that orders must carry."""

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
    """Who is signed in, with the session."""

    person: Person
    session: Session


class NotSignedInError(Exception):
    """The request belongs to no session."""


class Access:
    """Finds the person of a request.

    Args:
        sessions: The sessions.
        people: The people who may sign in: a person who was withdrawn is signed out at once.
        https: Whether the cookie is for TLS only.

    Attributes:
        keys: People's keys of the gateway by the token of their session, in memory only.
    """

    def __init__(self, sessions: Sessions, people: People, *, https: bool) -> None:
        self.sessions, self.people, self._https = sessions, people, https
        self.keys: dict[str, str] = {}
        self.cookie = "__Host-slipway" if https else "slipway-console"

    def find(self, request: Request) -> SignedIn | None:
        """Return the signed-in person; None without a session."""
        return self._named(self.sessions.find(request.cookies.get(self.cookie)))

    def look(self, request: Request) -> SignedIn | None:
        """Return the signed-in person as `find`, without counting as a use of the session."""
        return self._named(self.sessions.find(request.cookies.get(self.cookie), use=False))

    def _named(self, session: Session | None) -> SignedIn | None:
        person = self.people.find(session.person) if session is not None else None
        return SignedIn(person, session) if session is not None and person is not None else None

    def begin(self, request: Request, response: Response, person: str) -> None:
        """Begin a session of a person, with a value that the browser did not have before."""
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
        """End the session of a request."""
        self.sessions.end(request.cookies.get(self.cookie))
        response.delete_cookie(self.cookie, path="/", secure=self._https, httponly=True, samesite="strict")


def signed_in(request: Request) -> SignedIn:
    """Return who is signed in.

    Raises:
        NotSignedInError: The request belongs to no session.
    """
    signed = access_of(request).find(request)
    if signed is None:
        raise NotSignedInError
    return signed


def access_of(request: Request) -> Access:
    """Return the function that identifies the person of a request."""
    access: Access = request.app.state.access
    return access


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form; a JSON body is refused."""
    body = await request.body()
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=50))
    except ValueError as error:
        raise HTTPException(400, "The form cannot be read.") from error


def check_token(signed: SignedIn, given: str | None) -> None:
    """Refuse an order without the token of its session: another site's page does not know it.

    Raises:
        HTTPException: It is missing or another one.
    """
    if given is None or not hmac.compare_digest(given.encode(), signed.session.csrf.encode()):
        raise HTTPException(403, "The order has not the token of this session: reload the page, and order again.")


Signed = Annotated[SignedIn, Depends(signed_in)]
