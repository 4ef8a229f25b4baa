"""Sign-in by an OpenID Connect provider: authorisation code flow with PKCE, ID tokens verified by public keys."""

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import httpx
import jwt

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Asymmetric algorithms only: a verifier must not be able to sign."""
_FETCH_S: Final = 5.0
_LEEWAY_S: Final = 30
_LONGEST: Final = 64 * 1024


class SignInRefusedError(Exception):
    """The identity provider's answer was refused, for the reason in the message."""


@dataclass
class Provider:
    """An OpenID Connect provider.

    Attributes:
        issuer: Its URL; `/.well-known/openid-configuration` below it lists the endpoints.
        client_id: The console's client ID.
        client_secret: The client secret; empty for a public client.
        claim: Claim of the ID token that names the identity.
        redirect_uri: The console's callback URL.
        transport: Replaces the network in tests.
    """

    issuer: str
    client_id: str
    client_secret: str
    claim: str
    redirect_uri: str
    transport: httpx.AsyncBaseTransport | None = None
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _configuration: dict[str, Any] = field(default_factory=dict)

    async def begin(self, target: str) -> tuple[str, str]:
        """Return the URL of the provider's sign-in page, and the cookie that binds the answer to the browser.

        Raises:
            SignInRefusedError: The provider does not answer.
        """
        known = await self._discover()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        asked = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": "openid profile email",
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        kept = json.dumps([state, nonce, verifier, target])
        text = base64.urlsafe_b64encode(kept.encode()).decode()
        return f"{known['authorization_endpoint']}?{urlencode(asked)}", f"{text}.{self._sign(text)}"

    async def end(self, cookie: str, state: str, code: str, error: str) -> tuple[str, str]:
        """Verify the provider's answer; return the name of the signed-in person and the page requested before.

        Raises:
            SignInRefusedError: The answer belongs to another browser, or the token is invalid.
        """
        text, _, signature = cookie.partition(".")
        if not text or not hmac.compare_digest(signature.encode(), self._sign(text).encode()):
            raise SignInRefusedError("the sign-in did not begin in this browser, or took too long: begin again")
        expected, nonce, verifier, target = json.loads(base64.urlsafe_b64decode(text))
        if not hmac.compare_digest(expected.encode(), state.encode()):
            raise SignInRefusedError("the answer is that of another sign-in: begin again")
        if error or not code:
            raise SignInRefusedError(f"the identity provider answered {error[:100]!r}")
        claims = await self._claims(code, verifier)
        if claims.get("nonce") != nonce:
            raise SignInRefusedError("the token is that of another sign-in: begin again")
        name = claims.get(self.claim)
        if not isinstance(name, str):
            raise SignInRefusedError(f"the token has no claim {self.claim}: see CONSOLE_OIDC_CLAIM")
        return name, target

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    async def _discover(self) -> dict[str, Any]:
        if not self._configuration:
            answered = await self._fetch("GET", f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
            if answered.get("issuer", "").rstrip("/") != self.issuer.rstrip("/"):
                raise SignInRefusedError(f"the identity provider says that it is {str(answered.get('issuer'))[:100]!r}")
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                _check_address(str(answered.get(name, "")))
            self._configuration = answered
        return self._configuration

    async def _claims(self, code: str, verifier: str) -> dict[str, Any]:
        """Exchange a code for an ID token; return its verified claims."""
        known = await self._discover()
        asked = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "client_id": self.client_id,
            "code_verifier": verifier,
        }
        if self.client_secret:
            asked["client_secret"] = self.client_secret
        answer, keys = await asyncio.gather(
            self._fetch("POST", known["token_endpoint"], data=asked), self._fetch("GET", known["jwks_uri"])
        )
        token = answer.get("id_token")
        try:
            kid = jwt.get_unverified_header(token or "").get("kid")
            usable = [key for key in jwt.PyJWKSet.from_dict(keys).keys if kid is None or key.key_id == kid]
            claims: dict[str, Any] = jwt.decode(
                token or "",
                usable[0],
                algorithms=list(ALGORITHMS),
                audience=self.client_id,
                issuer=known["issuer"],
                leeway=_LEEWAY_S,
                options={"require": ["exp", "aud", "iss", "sub", "iat"]},
            )
        except (jwt.PyJWTError, IndexError, ValueError, TypeError) as error:
            raise SignInRefusedError(f"the identity provider's token is not valid ({type(error).__name__})") from error
        return claims

    async def _fetch(self, method: str, address: str, **options: Any) -> dict[str, Any]:
        try:
            async with httpx.AsyncClient(timeout=_FETCH_S, follow_redirects=False, transport=self.transport) as client:
                answer = await client.request(method, address, **options)
            if not answer.is_success or len(answer.content) > _LONGEST:
                raise SignInRefusedError(f"the identity provider answered with HTTP {answer.status_code}")
            answered = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise SignInRefusedError(f"the identity provider does not answer ({type(error).__name__})") from error
        if not isinstance(answered, dict):
            raise SignInRefusedError("the identity provider's answer is no JSON object")
        return answered


def _check_address(address: str) -> None:
    """Refuse a URL without TLS, except on loopback."""
    parts = urlsplit(address)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost"):
        raise SignInRefusedError(f"the identity provider names {address[:100]!r}, which is no https address")
