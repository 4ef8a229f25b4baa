"""Bearer tokens of an identity provider (OpenID Connect): verified with its public keys, which are read beforehand."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import httpx
import jwt
import structlog
from pydantic import Field, field_validator

from contracts.api_keys import ApiKey
from contracts.vocabulary import Contract
from services.gateway.adapters.transport import is_loopback
from services.gateway.domain.oidc_grants import Grant, account_of, record_of

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Asymmetric ones only: who can verify must not be able to sign."""
REQUIRED: Final = ("exp", "aud", "iss", "sub")
MAX_TOKEN_CHARS: Final = 16_384
_MAX_KEYS = 100
_MAX_BYTES = 2**20
_LEEWAY_S = 30
_EVERY_S = 600.0
_AT_MOST_EVERY_S = 30.0
_FETCH_S = 5.0
_RSA_BITS = 2048


class IdentityProvider(Contract):
    """Whose tokens the gateway accepts (`GATEWAY_OIDC`, a JSON file).

    Attributes:
        issuer: What `iss` must be.
        audience: What `aud` must be or contain.
        jwks: Its public keys: an address (https, or http on this machine), or a file.
        grants: What tokens may do: the first that matches counts; without a match a token opens nothing.
    """

    issuer: Annotated[str, Field(min_length=1)]
    audience: Annotated[str, Field(min_length=1)]
    jwks: Annotated[str, Field(min_length=1)]
    grants: Annotated[tuple[Grant, ...], Field(min_length=1)]

    @field_validator("jwks")
    @classmethod
    def _is_safe(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            msg = "the keys of an identity provider are fetched by https only"
            raise ValueError(msg)
        return value


class Tokens:
    """Verifies tokens with the keys that were read last; no token decides where keys are fetched from.

    Args:
        provider: whose tokens are accepted.
    """

    def __init__(self, provider: IdentityProvider) -> None:
        self._provider = provider
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._requested = asyncio.Event()

    def verify(self, token: str) -> tuple[ApiKey, str] | None:
        """Return what a token may do, as the record of a key, and its account; None if it is not valid.

        Raises:
            PermissionError: the token is valid, and matches no grant.
        """
        claims = self._claims(token)
        if claims is None:
            return None
        try:
            record, account = record_of(self._provider.grants, claims), account_of(claims["iss"], claims["sub"])
        except UnicodeEncodeError:  # half of a pair of surrogates, which JSON can write and UTF-8 cannot
            return None
        if record is None:
            raise PermissionError
        return record, account

    def _claims(self, token: str) -> Mapping[str, Any] | None:
        if len(token) > MAX_TOKEN_CHARS or not token.isascii():
            return None
        try:
            kid = jwt.get_unverified_header(token).get("kid", "")
            key = self._keys.get(kid) if isinstance(kid, str) else None
            if key is None:
                self._requested.set()  # the provider may have another key by now
                return None
            return jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self._provider.audience,
                issuer=self._provider.issuer,
                leeway=_LEEWAY_S,
                options={"require": list(REQUIRED)},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return None

    async def follow(self) -> None:
        """Read the keys again and again, for ever: every 10 minutes, and soon if a token names another key.

        While they cannot be read, those of before count.
        """
        while True:
            await self.refresh()
            self._requested.clear()
            await asyncio.sleep(_AT_MOST_EVERY_S)
            try:
                async with asyncio.timeout(_EVERY_S - _AT_MOST_EVERY_S):
                    await self._requested.wait()
            except TimeoutError:
                continue

    async def refresh(self) -> None:
        """Read the keys; what cannot be read changes nothing."""
        try:
            keys = read_keys(await self._fetch())
        except (httpx.HTTPError, OSError, ValueError, RecursionError) as error:
            log = structlog.get_logger()
            log.warning("the keys of the identity provider cannot be read", jwks=self._provider.jwks, error=repr(error))
            return
        self._keys = keys

    async def _fetch(self) -> bytes:
        if urlsplit(self._provider.jwks).scheme not in {"http", "https"}:
            return await asyncio.to_thread(Path(self._provider.jwks).read_bytes)
        body = bytearray()
        async with (
            httpx.AsyncClient(timeout=_FETCH_S, follow_redirects=False) as client,
            asyncio.timeout(2 * _FETCH_S),
            client.stream("GET", self._provider.jwks) as answer,
        ):
            answer.raise_for_status()
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > _MAX_BYTES:
                    msg = f"the keys have more than {_MAX_BYTES} bytes"
                    raise ValueError(msg)
        return bytes(body)


def read_keys(data: bytes) -> dict[str, jwt.PyJWK]:
    """Return the public keys for signatures of a JSON Web Key Set, by id; those that cannot be used are left out.

    Raises:
        ValueError: it is no key set, or has no key that can be used.
    """
    listed = json.loads(data)
    entries = listed.get("keys") if isinstance(listed, dict) else None
    if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
        msg = f"it is no key set of at most {_MAX_KEYS} keys"
        raise ValueError(msg)
    keys = {}
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
            continue
        try:
            key = jwt.PyJWK.from_dict(entry)
        except Exception:  # noqa: BLE001, S112 - whatever it raises for one entry, such as NotImplementedError: others count
            continue
        if key.algorithm_name in ALGORITHMS and getattr(key.key, "key_size", _RSA_BITS) >= _least_bits(entry):
            keys[str(entry.get("kid", ""))] = key
    if not keys:
        msg = "it has no key that can be used"
        raise ValueError(msg)
    return keys


def _least_bits(entry: Mapping[str, Any]) -> int:
    return _RSA_BITS if entry.get("kty") == "RSA" else 0
