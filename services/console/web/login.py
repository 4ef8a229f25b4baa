"""Sign-in and sign-out: by a link of `slipway open`, or by an identity provider."""

from typing import Annotated, Final
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from services.console.adapters.oidc import Provider, SignInRefusedError
from services.console.web.access import CSRF_FIELD, Access, Signed, check_token, read_form
from services.console.web.rendering import Renderer
from shared.provenance.login_links import NotAccepted, named_in, open_login
from shared.runtime.clock import Clock

STATE_COOKIE: Final = "slipway-sign-in"
STATE_S: Final = 600


def build_login(access: Access, render: Renderer, provider: Provider | None, *, url: str, clock: Clock) -> APIRouter:
    """Return the HTTP routes that begin and end sessions."""
    router = APIRouter()

    @router.get("/login")
    def sign_in(request: Request, token: Annotated[str, Query(max_length=2048)] = "", next: str = "/") -> Response:  # noqa: A002 - the name in the address
        """Show the sign-in page; a link is used up only by a click, not by a preview of it."""
        if access.find(request) is not None and not token:
            return RedirectResponse("/fleet", 303)
        shown = {"token": token, "name": named_in(token), "next": _own(next), "problem": ""}
        return render(request, None, "login.html", oidc=provider is not None, **shown)

    @router.post("/login")
    async def use_link(request: Request) -> Response:
        form = await read_form(request)
        opened = open_login(form.get("token", ""), url, access.people.public_keys, clock.now())
        if not isinstance(opened, NotAccepted) and not access.sessions.use_once(opened.nonce, opened.expires_at):
            opened = NotAccepted("the link was used already: `slipway open` makes a new one")
        if isinstance(opened, NotAccepted):
            problem = f"You are not signed in: {opened.reason}."
            return render(
                request, None, "login.html", 403, token="", next="/", oidc=provider is not None, problem=problem
            )
        answer = RedirectResponse(_own(form.get("next", "/")), 303)
        access.begin(request, answer, opened.name)
        return answer

    @router.post("/logout")
    async def sign_out(request: Request, signed: Signed) -> Response:
        check_token(signed, (await read_form(request)).get(CSRF_FIELD))
        access.keys.pop(signed.session.csrf, None)
        answer = RedirectResponse("/login", 303)
        access.end(request, answer)
        return answer

    if provider is not None:
        _oidc(router, access, render, provider)
    return router


def _oidc(router: APIRouter, access: Access, render: Renderer, provider: Provider) -> None:
    @router.get("/login/oidc")
    async def begin(next: str = "/") -> Response:  # noqa: A002 - the name in the address
        """Redirect to the identity provider; a cookie keeps the values that check the answer."""
        address, secret = await provider.begin(_own(next))
        answer = RedirectResponse(address, 303)
        answer.set_cookie(
            STATE_COOKIE,
            secret,
            max_age=STATE_S,
            path="/login",
            secure=provider.redirect_uri.startswith("https://"),
            httponly=True,
            samesite="lax",
        )
        return answer

    @router.get("/login/callback")
    async def end(request: Request, state: str = "", code: str = "", error: str = "") -> Response:
        try:
            name, target = await provider.end(request.cookies.get(STATE_COOKIE, ""), state, code, error)
            _check_known(access, name)
        except SignInRefusedError as refused:
            problem = f"You are not signed in: {refused}."
            return render(request, None, "login.html", 403, token="", next="/", oidc=True, problem=problem)
        # The cookie is SameSite=Strict: a page of this site must load the target, not a cross-site redirect.
        answer = render(request, None, "continue.html", target=target)
        access.begin(request, answer, name)
        answer.delete_cookie(STATE_COOKIE, path="/login")
        return answer


def _check_known(access: Access, name: str) -> None:
    if access.people.find(name) is None:
        raise SignInRefusedError(f"{name[:100]!r} is no identity here: `slipway keys add` makes it one")


def _own(target: str) -> str:
    """Return a path of this console; `/` for anything else."""
    is_path = target.startswith("/") and not target.startswith(("//", "/\\", "/login", "/logout"))
    return target if is_path and target.isprintable() and len(target) < 1000 else "/"


def ask_to_sign_in(request: Request, render: Renderer) -> Response:
    """Return the answer to a page request without a session.

    Browsers omit the cookie after a click on another site's link. Such a request gets a page that reloads the same
    address with the cookie.
    """
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if request.headers.get("sec-fetch-site") == "cross-site" and request.method == "GET":
        return render(request, None, "continue.html", target=_own(target))
    if request.headers.get("hx-request"):
        return Response(status_code=401, headers={"hx-redirect": "/login"})
    return RedirectResponse(f"/login?next={quote(target)}", 303)
