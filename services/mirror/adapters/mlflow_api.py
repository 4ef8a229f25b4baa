"""Client of MLflow's REST API, with limits on time and memory for any answer."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from shared.errors import SlipwayError, Transient

ANSWER_BYTES = 32 * 1024 * 1024
"""Maximum bytes of an answer; a thousand versions with tags take some megabytes."""
CALL_S = 30.0
CONNECT_S = 10.0
_REASON_CHARS = 300
ABSENT = "RESOURCE_DOES_NOT_EXIST"
PRESENT = "RESOURCE_ALREADY_EXISTS"


class MlflowError(Transient):
    """MLflow does not answer, or gives malformed answers. Retried, because an operator may repair it."""

    def __init__(self, reason: str) -> None:
        super().__init__("hub_unavailable", reason)


class MlflowRefusalError(MlflowError):
    """MLflow refuses a request; `kind` is its error code."""

    def __init__(self, reason: str, kind: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class MlflowAccess:
    """Connection settings of an MLflow server.

    Attributes:
        url: Base URL, `https://mlflow.example`, with a path if needed.
        token_file: File with a bearer token or `user:password`; read for each call, so that it can be rotated.
        ca: CA certificate (PEM) of the server; None for the system's CAs.
        call_s: Timeout of a call in seconds.
    """

    url: str
    token_file: Path | None = None
    ca: Path | None = None
    call_s: float = CALL_S


class MlflowApi:
    """An MLflow server. Redirects are refused, because they would send the credential to another host."""

    def __init__(self, access: MlflowAccess, *, page: int = 200, answer_bytes: int = ANSWER_BYTES) -> None:
        self._access, self._page, self._answer_bytes = access, page, answer_bytes
        self._base = access.url.rstrip("/")
        if urlsplit(self._base).username is not None or urlsplit(self._base).password is not None:
            msg = "The address of MLflow holds a user or a password, which messages would show: use a token file."
            raise ValueError(msg)
        verify: ssl.SSLContext | bool = True if access.ca is None else ssl.create_default_context(cafile=access.ca)
        timeout = httpx.Timeout(access.call_s, connect=min(CONNECT_S, access.call_s))
        plain = {"accept-encoding": "identity"}  # against decompression bombs
        self._client = httpx.AsyncClient(follow_redirects=False, timeout=timeout, verify=verify, headers=plain)

    async def close(self) -> None:
        """Close the HTTP connections."""
        await self._client.aclose()

    async def get(self, path: str, **query: str | int) -> dict[str, Any]:
        """Return the answer to a GET of an API path, such as `registered-models/get`.

        Raises:
            MlflowError: There is no valid answer.
            MlflowRefusalError: MLflow refuses the request.
        """
        return await self._json("GET", path, params=query)

    async def find(self, path: str, **query: str | int) -> dict[str, Any] | None:
        """Return the answer to a GET; None if the resource does not exist."""
        try:
            return await self.get(path, **query)
        except MlflowRefusalError as refusal:
            if refusal.kind == ABSENT:
                return None
            raise

    async def send(self, method: str, path: str, **fields: Any) -> dict[str, Any]:
        """Return the answer to a POST, PATCH or DELETE with JSON fields."""
        return await self._json(method, path, content=json.dumps(fields), headers={"content-type": "application/json"})

    async def pages(self, path: str, field: str, **query: str | int) -> AsyncIterator[dict[str, Any]]:
        """Yield all items of a paged list."""
        token, seen = "", set[str]()
        while True:
            answer = await self.get(path, max_results=self._page, **({"page_token": token} if token else {}), **query)
            for item in _objects(answer.get(field)):
                yield item
            token = str(answer.get("next_page_token") or "")
            if not token:
                return
            if token in seen:
                raise MlflowError(f"{self._base} repeats a page of {path}; ask its operator what is between.")
            seen.add(token)

    async def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        return await self._call(method, f"{self._base}/api/2.0/mlflow/{path}", **request)

    async def _call(self, method: str, url: str, **request: Any) -> dict[str, Any]:
        with self._explained():
            async with (
                asyncio.timeout(self._access.call_s),
                self._client.stream(method, url, auth=self._auth(), **request) as response,
            ):
                body = await self._read(response)
                if response.status_code != 200:
                    self._refuse(response, body)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise MlflowError(f"{self._base} answers {method} {_path_of(url)} without a JSON object: {_start(body)}.")
        return answer

    async def _read(self, response: httpx.Response) -> bytes:
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise MlflowError(f"{self._base} compresses an answer ({encoding[:20]!r}) although it was told not to.")
        parts, size = [], 0
        async for part in response.aiter_raw(64 * 1024):
            parts.append(part)
            size += len(part)
            if size > self._answer_bytes:
                raise MlflowError(
                    f"{self._base} answers with more than {self._answer_bytes:,} bytes, which are not read."
                )
        return b"".join(parts)

    def _refuse(self, response: httpx.Response, body: bytes) -> None:
        """Raise the error for a status other than 200."""
        status, where = response.status_code, f"{self._base}{_path_of(str(response.request.url.copy_with(query=None)))}"
        if 300 <= status < 400:
            raise MlflowError(f"{where} redirects ({status}), which is refused; set the address that it redirects to.")
        try:
            fields = json.loads(body)
            kind, message = str(fields["error_code"]), str(fields.get("message", ""))[:_REASON_CHARS]
        except (ValueError, TypeError, KeyError, RecursionError):
            kind, message = "", _start(body)
        if status in (401, 403):
            raise MlflowError(f"{where} answers {status}: check the token file and what its user may do.")
        if status >= 500 or status in (408, 429) or not kind:
            raise MlflowError(f"{where} answers {status}: {message}")
        raise MlflowRefusalError(f"{where} answers {status} {kind}: {message}", kind)

    def _auth(self) -> httpx.Auth | None:
        if self._access.token_file is None:
            return None
        try:
            secret = self._access.token_file.read_text().strip()
        except (OSError, ValueError) as error:
            raise MlflowError(f"The token file of MLflow cannot be read: {type(error).__name__}.") from None
        user, separator, password = secret.partition(":")
        return httpx.BasicAuth(user, password) if separator else _Bearer(secret)

    def _explained(self) -> "_Explained":
        return _Explained(self._base)


class _Bearer(httpx.Auth):
    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Any:
        request.headers["authorization"] = f"Bearer {self._token}"
        yield request


@dataclass
class _Explained:
    """Converts HTTP library errors to `MlflowError`, without their messages, which may contain parts of requests."""

    base: str

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, SlipwayError):
            return
        if isinstance(error, httpx.HTTPError | httpx.InvalidURL | TimeoutError | OSError | UnicodeError | ValueError):
            raise MlflowError(f"{self.base} does not answer ({type(error).__name__}).") from None


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def tags_of(item: Mapping[str, Any]) -> dict[str, str]:
    """Return an answer's tags by key."""
    return {str(tag.get("key", "")): str(tag.get("value", "")) for tag in _objects(item.get("tags"))}


def _path_of(url: str) -> str:
    return httpx.URL(url).path


def _start(body: bytes) -> str:
    """Return the start of an unexpected answer, for error messages."""
    return repr(body[:80].decode(errors="replace"))
