"""Client of an attached server of the OpenAI API over HTTP: vLLM, or another.

Records in the form of our backends (`openai_record`) are made from its answers: tokens, texts, finish reasons,
failures. They have no queue time and no NaN; a whole answer has no time of its first token (`is_whole`).
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from decisions.serving.attached import split_key
from shared.errors import Permanent, SlipwayError, Transient
from shared.serving.api_records import AnswerReader, is_unknown_model, late_body, read_next
from shared.serving.inference import ABORTED, Deadlines, classify_engine_error, silence_error
from shared.serving.openai_stream import ApiPiece, ApiRequest
from shared.serving.tensors import Delta

CONNECT_S: Final = 5.0
IDLE_S: Final = 2.0
"""Lifetime of an idle connection, in seconds; vLLM's uvicorn closes it after 5."""
RETRY_S: Final = 0.1
"""Time between two tries to reach a server, in seconds."""
ANSWER_BYTES: Final = 64 * 2**20
"""Size limit of a whole answer, and of an event of a stream."""
NEXT_TOKENS: Final = 4
"""Number of likeliest next tokens in a score; vLLM returns up to five by default."""
TOLD_BYTES: Final = 2**20
"""Size limit of answers about the server itself: models, tokens, adapters."""
_UNAVAILABLE: Final = frozenset({401, 403, 429, 502, 503, 504})
"""Answers of a proxy, a limit or a starting server, independent of the version."""
_STREAM: Final = "text/event-stream"
_LATE: Final[Mapping[str, Any]] = {"error": {"class": "DeadlineExceeded", "source": "deadline"}}


class Listed(NamedTuple):
    """A listed model: its context, and the base model of an adapter; None if unknown."""

    context_tokens: int | None
    parent: str | None


class ServerKey(httpx.Auth):
    """Sends a key as a bearer token; after a 401 it is read from the file again, in case it was replaced."""

    def __init__(self, name: str, file: Path | None) -> None:
        """Set the name of the key, and the file of all keys, one `NAME: key` a line."""
        self._name, self._file = name, file
        self._key = self._read()

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Yield the request with the key, and after a 401 once more if the key was replaced."""
        if self._key:
            request.headers["authorization"] = f"Bearer {self._key}"
        response = yield request
        if response.status_code != httpx.codes.UNAUTHORIZED or (key := self._read()) == self._key:
            return
        self._key = key
        request.headers["authorization"] = f"Bearer {key}"
        yield request

    def _read(self) -> str:
        """Return the key; empty if the file has none by this name."""
        try:
            lines = self._file.read_text().splitlines() if self._file is not None else []
        except (OSError, UnicodeDecodeError):
            return ""
        pairs = (line.partition(":") for line in lines)
        return next((key.strip() for name, _, key in pairs if name.strip() == self._name), "")


class HttpChannel:
    """The connections to one server, in place of a gRPC channel to a Triton.

    Attributes:
        under_way: number of running requests.
    """

    def __init__(self, url: str, keys: Path | None = None) -> None:
        """Use an address such as `http://gpu-1:8000`, and the file of keys; connect at the first request."""
        self.url = url
        self.under_way = 0
        self._key_name, address = split_key(url)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=IDLE_S)
        timeout = httpx.Timeout(None, connect=CONNECT_S)
        headers = {"accept-encoding": "identity"}
        self._client = httpx.AsyncClient(
            base_url=address,
            auth=ServerKey(self._key_name, keys) if self._key_name else None,
            limits=limits,
            timeout=timeout,
            headers=headers,
            trust_env=False,  # no proxy: addresses are those of replicas
            follow_redirects=False,
            verify=ssl.create_default_context(),
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def is_live(self) -> bool:
        """Return whether the server answers anything."""
        try:
            async with self._client.stream("GET", "/v1/models") as response:
                async for _ in _limited(response, TOLD_BYTES):  # to its end: the connection is used again
                    pass
        except httpx.HTTPError:
            return False
        except SlipwayError:
            return True
        return True

    async def channel_ready(self) -> None:
        """Return once the server answers (the counterpart of a gRPC channel's method)."""
        while True:
            if await self.is_live():
                return
            await asyncio.sleep(RETRY_S)

    async def list_models(self, limit_s: float) -> dict[str, Listed]:
        """Return the server's models by name.

        Raises:
            Transient: `endpoint_unreachable`: it lists no models.
        """
        try:
            async with asyncio.timeout(limit_s):
                told = (await self._tell("GET", "/v1/models"))["data"]
            tokens = {str(entry["id"]): _positive(entry.get("max_model_len")) for entry in told}
            parents = {str(entry["id"]): entry.get("parent") for entry in told}
            # An adapter has the context of its base.
            return {name: Listed(own or tokens.get(str(parents[name])), parents[name]) for name, own in tokens.items()}
        except (httpx.HTTPError, TimeoutError, SlipwayError) as error:
            raise Transient(
                "endpoint_unreachable", f"{self.url} does not list its models: {str(error) or type(error).__name__}"
            ) from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise Transient("endpoint_unreachable", f"{self.url}/v1/models is no list of models: {error}") from error

    async def render(self, name: str, messages: Sequence[Mapping[str, str]], limit_s: float) -> str | None:
        """Return a conversation rendered by the server (vLLM's `/tokenize` and `/detokenize`); None if it cannot."""
        try:
            async with asyncio.timeout(limit_s):
                tokens = await self._tell("POST", "/tokenize", {"model": name, "messages": list(messages)})
                prompt = await self._tell("POST", "/detokenize", {"model": name, "tokens": tokens["tokens"]})
        except (httpx.HTTPError, SlipwayError, TimeoutError, ValueError, LookupError, TypeError, AttributeError):
            return None
        return text if isinstance(text := prompt.get("prompt"), str) else None

    async def load_adapter(self, name: str, folder: str, limit_s: float) -> None:
        """Load the LoRA in a folder of the server under a name (vLLM).

        Raises:
            Transient: `load_failed` after a refusal, `endpoint_unreachable` without an answer.
        """
        await self._order("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder}, limit_s)

    async def unload_adapter(self, name: str, limit_s: float) -> None:
        """Unload an adapter (vLLM); raise as `load_adapter`."""
        await self._order("/v1/unload_lora_adapter", {"lora_name": name}, limit_s)

    async def _order(self, path: str, body: Mapping[str, str], limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s), self._client.stream("POST", path, json=body) as response:
                told = b"".join([chunk async for chunk in _limited(response, TOLD_BYTES)])
        except (httpx.HTTPError, TimeoutError) as error:
            raise Transient(
                "endpoint_unreachable", f"{self.url}{path} does not answer: {str(error) or type(error).__name__}"
            ) from error
        if response.status_code in _UNAVAILABLE:
            raise Transient("endpoint_unreachable", f"{self.url}{path} answers {response.status_code}: {told[:500]!r}")
        if not response.is_success:
            hint = "; vLLM needs --enable-lora, VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and the folder by the same path"
            hint = hint if response.status_code == 404 and "lora_path" in body else ""
            raise Transient("load_failed", f"{self.url}{path} refuses {body['lora_name']}: {told[:500]!r}{hint}")

    async def _tell(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON of a short answer; raise an error of httpx, ValueError, or Transient if it is too long."""
        async with self._client.stream(method, path, json=body) as response:
            response.raise_for_status()
            return json.loads(b"".join([chunk async for chunk in _limited(response, TOLD_BYTES)]))

    async def stream_api(self, name: str, request: ApiRequest, limits: Deadlines) -> AsyncGenerator[ApiPiece, None]:
        """Stream the answer to a request (see `engine_streams.stream_api`); leaving it closes its connection.

        Raises:
            Transient: `endpoint_unreachable`, with `not_loaded` if the server does not know the name, or answers by
                another name; `no_first_token`, `engine_dead` after silence.
            Permanent: `bad_request`: the body is no JSON object.
        """
        reader = AnswerReader(name, request)
        loop = asyncio.get_running_loop()
        began_s, has_head = loop.time(), False
        headers = {"content-type": "application/json", "x-request-id": request.request_id}
        if request.traceparent:
            headers["traceparent"] = request.traceparent
        self.under_way += 1
        try:
            async with contextlib.AsyncExitStack() as stack:
                pieces = self._pieces(reader, request, headers, stack)
                stack.push_async_callback(pieces.aclose)
                heard_s = began_s
                while True:
                    silent_s = limits.inter_token_s if reader.output_tokens else limits.first_token_s
                    ends_s = began_s + request.deadline_s
                    until_s = min(heard_s + silent_s, ends_s) if reader.is_stream else ends_s
                    async with asyncio.timeout_at(until_s):
                        piece = await anext(pieces, None)
                    if piece is None:
                        return
                    heard_s, has_head = loop.time(), has_head or piece.status is not None
                    yield piece
        except TimeoutError:
            if loop.time() < began_s + request.deadline_s:
                raise silence_error(name, limits, has_started=reader.output_tokens > 0) from None
            yield ApiPiece(b"", _LATE) if has_head else ApiPiece(late_body(request.deadline_s), _LATE, 504)
        except SlipwayError:
            raise
        except Exception as error:
            raise Transient(
                "endpoint_unreachable",
                f"The endpoint of {name}, {self.url}, does not answer: {str(error) or type(error).__name__}",
                target=name,
            ) from error
        finally:
            self.under_way -= 1

    async def _pieces(
        self, reader: AnswerReader, request: ApiRequest, headers: Mapping[str, str], stack: contextlib.AsyncExitStack
    ) -> AsyncGenerator[ApiPiece, None]:
        """Yield the parts of an answer, without a time limit."""
        call = self._client.stream(request.method, request.path, content=reader.body, headers=headers)
        response = await stack.enter_async_context(call)
        status, content_type = response.status_code, response.headers.get("content-type", "")
        if status != httpx.codes.OK or not content_type.startswith(_STREAM):
            body = b"".join([chunk async for chunk in _limited(response)])
            is_unknown = status == httpx.codes.NOT_FOUND and is_unknown_model(body, reader.name)
            if status in _UNAVAILABLE or is_unknown:
                reason = f"{self.url} answers a request for {reader.name} with status {status}: {body[:500]!r}"
                if status == httpx.codes.UNAUTHORIZED:
                    reason += f"; its key is {self._key_name or 'not named'}, of the file SLIPWAY_SERVER_KEYS"
                raise Transient("endpoint_unreachable", reason, target=reader.name, not_loaded=is_unknown)
            yield reader.read_whole(status, body)
            return
        async for event in _events(response, ANSWER_BYTES if reader.is_gathered else None):
            if (piece := reader.read_event(event)) is not None:
                yield piece
        if not reader.has_ended:
            raise Transient(
                "endpoint_unreachable",
                f"The stream of {reader.name} from {self.url} broke off in the middle of an answer.",
                target=reader.name,
            )

    async def score_next(self, name: str, prompt: str, limit_s: float) -> list[float]:
        """Return the log-probabilities of the likeliest tokens after a prompt, the highest first.

        Raises:
            SlipwayError: as `stream_api`.
        """
        asked = {"model": name, "prompt": prompt, "max_tokens": 1, "temperature": 0.0, "logprobs": NEXT_TOKENS + 1}
        request = ApiRequest("POST", "/v1/completions", json.dumps(asked).encode(), limit_s, "score")
        body = b""
        async for piece in self.stream_api(name, request, Deadlines(limit_s, limit_s)):
            if (error := _find_error(piece, name)) is not None and error.code != "bad_request":
                raise error
            body += piece.body
        return read_next(body)[:NEXT_TOKENS]

    async def generate(
        self, name: str, prompt: str, sampling: Mapping[str, Any], limits: Deadlines, cache_salt: str | None
    ) -> AsyncGenerator[Delta, None]:
        """Stream the continuation of a prompt (see `inference.generate`)."""
        body = {"model": name, "prompt": prompt, "stream": True, **sampling}
        whole_s = limits.first_token_s + limits.inter_token_s * int(sampling.get("max_tokens", 1))
        request = ApiRequest(
            "POST", "/v1/completions", json.dumps(body).encode(), whole_s, "generate", None, cache_salt
        )
        counted, reason, last = 0, None, Delta("")
        async with contextlib.aclosing(self.stream_api(name, request, limits)) as pieces:
            async for piece in pieces:
                record = piece.record
                if (error := _find_error(piece, name)) is not None:
                    raise error
                reason = next(iter(record.get("finish_reasons", {}).values()), reason)
                text = "".join(text for _, text in record.get("texts", ()))
                tokens, counted = record["output_tokens"] - counted, record["output_tokens"]
                last = Delta(text, None, record["prompt_tokens"], tokens, tuple(record.get("token_logprobs", ())))
                if text or tokens:
                    yield last
        if reason in ABORTED or reason is None:
            raise Transient("engine_failed", f"{self.url} gave no whole answer for {name}: it ended with {reason}.")
        yield Delta("", reason, last.input_tokens)


def _positive(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _find_error(piece: ApiPiece, name: str) -> SlipwayError | None:
    """Return the failure in a part, or None."""
    error = piece.record.get("error")
    if error is None:
        return None
    message = piece.body[:500].decode(errors="replace")
    if error["source"] == "validation":
        return Permanent("bad_request", message, target=name)
    if error["source"] == "deadline":
        return Transient("no_first_token", f"{name} was too slow: {message}")
    return classify_engine_error(f"engine_dead: {message}" if "EngineDead" in error["class"] else message, name)


async def _limited(response: httpx.Response, limit: int = ANSWER_BYTES) -> AsyncIterator[bytes]:
    """Yield the bytes of a body; raise Transient above a limit."""
    size = 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > limit:
            raise Transient("engine_failed", f"An answer of {response.url} is longer than {limit} bytes.")
        yield chunk


async def _events(response: httpx.Response, limit: int | None) -> AsyncIterator[bytes]:
    """Yield the server-sent events of a stream, without the empty lines; `limit`: total bytes."""
    pending, size = list[bytes](), 0
    async for chunk in _limited(response, limit) if limit is not None else response.aiter_bytes():
        pending.append(chunk)
        size += len(chunk)
        if b"\n" in chunk:  # else no event ends here, and what is pending may be long
            *events, rest = b"".join(pending).replace(b"\r\n", b"\n").split(b"\n\n")
            for event in events:
                yield event
            pending, size = [rest], len(rest)
        if size > ANSWER_BYTES:
            raise Transient("engine_failed", f"An event of {response.url} is longer than {ANSWER_BYTES} bytes.")
    if rest := b"".join(pending).strip():
        yield rest
