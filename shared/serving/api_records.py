"""Requests to OpenAI-compatible servers, and records of their answers in the form of our backends."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from shared.errors import Permanent, Transient
from shared.serving.openai_stream import ApiPiece, ApiRequest

_PATHS: Final = {"/v1/chat/completions": "chat.completion", "/v1/completions": "text_completion"}
_TAKEN: Final = frozenset(
    {
        "model", "messages", "prompt", "stream", "n", "user", "seed", "stop", "temperature", "top_p", "top_k", "min_p",
        "max_tokens", "max_completion_tokens", "min_tokens", "frequency_penalty", "presence_penalty", "ignore_eos",
        "repetition_penalty", "logit_bias", "stop_token_ids", "response_format", "reasoning_effort", "metadata",
        "chat_template_kwargs", "add_generation_prompt", "continue_final_message", "cache_salt", "priority",
    }
)  # fmt: skip
"""Parameters that change the content of an answer, not its form."""


def may_gather(path: str, body: Mapping[str, Any]) -> bool:
    """Return whether a whole answer can be assembled from a stream."""
    return path in _PATHS and not body.get("stream") and _TAKEN.issuperset(body)


class GatheredAnswer:
    """A whole answer assembled from the events of a stream, to time its first token.

    Only for plain text: servers stream tool calls and other content in another form.
    """

    def __init__(self, path: str) -> None:
        """Start empty."""
        self._is_chat = path == "/v1/chat/completions"
        self._head: dict[str, Any] = {"object": _PATHS[path]}
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: Any = None

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Add an event."""
        self._head = {"id": chunk.get("id"), **self._head, **{key: chunk.get(key) for key in ("created", "model")}}
        self._usage = chunk.get("usage") or self._usage
        for part in filter(_is_object, _list(chunk.get("choices"))):
            index = part["index"] if type(part.get("index")) is int else 0
            texts: dict[str, Any] = {"role": "assistant", "content": ""} if self._is_chat else {"text": ""}
            begun = {"index": index, **({"message": texts} if self._is_chat else texts), "logprobs": None}
            choice = self._choices.setdefault(index, begun)
            into, new = (
                (choice["message"], part.get("delta")) if self._is_chat else (choice, {"text": part.get("text")})
            )
            for key, value in new.items() if isinstance(new, dict) else ():
                if isinstance(value, str) and key != "role":
                    into[key] = (into.get(key) or "") + value
            choice |= {key: part[key] for key in ("finish_reason", "stop_reason") if part.get(key) is not None}

    def to_data(self) -> dict[str, Any]:
        """Return the answer as JSON data."""
        choices = [{"finish_reason": None, **self._choices[index]} for index in sorted(self._choices)]
        return {**self._head, "choices": choices, "usage": self._usage}


_DONE: Final = b"[DONE]"
_JSON: Final = (("content-type", "application/json"),)
_STREAM: Final = (("content-type", "text/event-stream; charset=utf-8"),)
_DEAD: Final = (b"EngineDead", b"EngineCore encountered an issue")
"""Messages of vLLM with a dead engine."""
_REFUSED: Final = frozenset({400, 413, 422})
"""Codes of errors, also in streams, by which a server refuses the request itself."""
_TEXTS: Final = ("content", "reasoning_content", "reasoning", "refusal", "text")
"""Fields with text of a choice or delta."""


class AnswerReader:
    """Reads the answer to one request: the caller's bytes, and a record about the engine.

    Attributes:
        name: the target's name, sent to the server as the model.
        body: the request to the server.
        is_stream: the server answers with a stream of events.
        output_tokens: tokens of all answers so far; until the server reports usage, one for each event with text.
        has_ended: an answer ended, or failed.
    """

    def __init__(self, name: str, request: ApiRequest) -> None:
        """Rename the model in a request, and ask for token counts at the end of a stream.

        Raises:
            Permanent: `bad_request`: the body is no JSON object.
        """
        try:
            asked = json.loads(request.body)
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict):
            raise Permanent("bad_request", "The body of a request must be a JSON object.", target=name)
        self.name = name
        self._gathered = GatheredAnswer(request.path) if may_gather(request.path, asked) else None
        if self._gathered is not None:
            asked["stream"] = True
        self.is_stream = asked.get("stream") is True
        self._has_head = False
        self.output_tokens = 0
        self.has_ended = False
        self._prompt_tokens = 0
        self._shown = request.model
        self._fingerprint = request.fingerprint
        self._answers = number if isinstance(number := asked.get("n"), int) and number > 0 else 1
        self._logprobs = (0, 0.0)
        options = asked.get("stream_options") or {}
        self._wants_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        asked["model"] = name
        if request.cache_salt is not None:
            asked["cache_salt"] = request.cache_salt
        if self.is_stream and not request.path.endswith("/responses") and isinstance(options, dict):
            asked["stream_options"] = {**options, "include_usage": True}
        self.body = json.dumps(asked).encode()

    @property
    def is_gathered(self) -> bool:
        """Whether the events of a stream are combined into one answer."""
        return self._gathered is not None

    def read_whole(self, status: int, body: bytes) -> ApiPiece:
        """Return the piece of a whole answer, or of an error."""
        answer = _parse(body)
        if status != 200:
            source = "validation" if status < 500 else "application"
            record = {"error": {"class": _class_of(body, f"Status{status}"), "source": source}}
            return ApiPiece(body, self._record(record), status, _JSON)
        if answer is None:
            return ApiPiece(body, self._record({"error": {"class": "NoJson", "source": "parser"}}), status, _JSON)
        whole = {**self._read(answer, "message"), "is_whole": "data" not in answer}  # embeddings have no tokens
        return ApiPiece(self._shown_as(answer), self._record(whole), status, _JSON)

    def read_event(self, event: bytes) -> ApiPiece | None:
        """Return the piece of an event; None for a keep-alive.

        Raises:
            Transient: `endpoint_unreachable`: the answer names another model than the target (`not_loaded`).
        """
        lines = event.split(b"\n")
        data = b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
        if not data:
            return None
        if data == _DONE:
            whole = self._shown_as(self._gathered.to_data()) if self._gathered is not None else b"data: [DONE]\n\n"
            return self._piece(whole, {})
        chunk = _parse(data)
        if chunk is None or ("error" in chunk and not isinstance(chunk.get("response"), dict) and chunk["error"]):
            code = _refusal_of(chunk) if self.output_tokens == 0 else None
            source = "parser" if code is None else "validation"
            error = {"error": {"class": _class_of(data, "ErrorEvent"), "source": source}}
            return self._piece(data if self._gathered is not None else event + b"\n\n", error, code or 500)
        record = self._read_part(chunk) if "type" in chunk and "choices" not in chunk else self._read(chunk, "delta")
        if self._gathered is not None:
            self._gathered.add(chunk)
            return ApiPiece(b"", self._record(record))
        usage = chunk.pop("usage", None) if not self._wants_usage and "choices" in chunk else None
        if usage is not None and not chunk["choices"]:
            return ApiPiece(b"", self._record(record))
        head = b"".join(line + b"\n" for line in lines if line.startswith(b"event:"))
        return self._piece(head + b"data: " + self._shown_as(chunk) + b"\n\n", record)

    def _piece(self, body: bytes, record: Mapping[str, Any], status: int = 200) -> ApiPiece:
        """Return a piece; the first one has the answer's status and content type."""
        if self._has_head:
            return ApiPiece(body, self._record(record))
        self._has_head = True
        is_json = self._gathered is not None
        return ApiPiece(body, self._record(record), status if is_json else 200, _JSON if is_json else _STREAM)

    def _record(self, more: Mapping[str, Any]) -> dict[str, Any]:
        self.has_ended = self.has_ended or "finish_reasons" in more or "error" in more
        counts = {"prompt_tokens": self._prompt_tokens, "output_tokens": self.output_tokens}
        count, total = self._logprobs
        return {**counts, **more, **({"logprob_mean": total / count} if count else {})}

    def _shown_as(self, answer: dict[str, Any]) -> bytes:
        """Return an answer or event with the caller's model name and fingerprint.

        Raises:
            Transient: `endpoint_unreachable`: it names another model than the target.
        """
        inner = answer.get("response")
        for named in (answer, inner if isinstance(inner, dict) else {}):
            if "model" not in named:
                continue
            if named["model"] != self.name:
                raise Transient(
                    "endpoint_unreachable",
                    f"An answer for {self.name} comes from {str(named['model'])[:200]}, which is another model.",
                    target=self.name,
                    not_loaded=True,
                )
            named["model"] = self._shown or self.name
            if self._fingerprint and "choices" in named:
                named["system_fingerprint"] = self._fingerprint
        return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")

    def _read(self, answer: Mapping[str, Any], holder: str) -> dict[str, Any]:
        """Return the record of the choices of an answer or event."""
        texts, reasons, logprobs = [], {}, list[float]()
        for choice in filter(_is_object, _list(answer.get("choices"))):
            number = choice.get("index") if type(choice.get("index")) is int else 0
            name = f"{number // self._answers}.{number % self._answers}"
            inner = choice.get(holder)
            text = "".join(_texts_of(inner if isinstance(inner, dict) else choice))
            if text:
                texts.append([name, text])
                self.output_tokens += 1
            if choice.get("finish_reason") is not None:
                reasons[name] = str(choice["finish_reason"])
            logprobs += _logprobs_of(choice.get("logprobs"))
        texts += self._read_items(_list(answer.get("output")), reasons, answer)
        self._read_usage(answer.get("usage"))
        self._logprobs = (self._logprobs[0] + len(logprobs), self._logprobs[1] + sum(logprobs))
        return _filled({"texts": texts, "finish_reasons": reasons, "token_logprobs": logprobs})

    def _read_items(self, items: list[Any], reasons: dict[str, str], answer: Mapping[str, Any]) -> list[list[str]]:
        """Return the texts of an answer of `/v1/responses`, and note its finish reason."""
        if answer.get("object") != "response":
            return []
        status = answer.get("status")
        if status in ("completed", "incomplete"):
            reasons["0.0"] = "stop" if status == "completed" else "length"
        contents = (part for item in filter(_is_object, items) for part in _list(item.get("content")))
        return [["0.0", text] for part in filter(_is_object, contents) for text in _texts_of(part)]

    def _read_part(self, part: Mapping[str, Any]) -> dict[str, Any]:
        """Return the record of an event of `/v1/responses`."""
        kind, delta, response = str(part.get("type")), part.get("delta"), part.get("response")
        if kind.endswith(".delta") and isinstance(delta, str) and delta:
            self.output_tokens += 1
            return {"texts": [["0.0", delta]]}
        if not isinstance(response, dict) or kind not in ("response.completed", "response.incomplete"):
            return {}
        self._read_usage(response.get("usage"))
        is_cut = kind == "response.incomplete" or response.get("status") == "incomplete"  # vLLM: in one that completed
        return {"finish_reasons": {"0.0": "length" if is_cut else "stop"}}

    def _read_usage(self, usage: Any) -> None:
        """Update the token counts from the server's usage."""
        if not isinstance(usage, dict):
            return
        for names, ours in (
            (("prompt_tokens", "input_tokens"), "_prompt_tokens"),
            (("completion_tokens", "output_tokens"), "output_tokens"),
        ):
            count = next((usage[name] for name in names if type(usage.get(name)) is int), 0)
            setattr(self, ours, max(getattr(self, ours), count))


def _refusal_of(chunk: Mapping[str, Any] | None) -> int | None:
    """Return the code of an error event that refuses the request; None for an engine failure."""
    error = chunk.get("error") if chunk is not None else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int and code in _REFUSED else None


def is_unknown_model(body: bytes, name: str) -> bool:
    """Return whether the body of a 404 says that the server does not know a model."""
    error = (_parse(body) or {}).get("error")
    return name in str(error.get("message") if isinstance(error, dict) else error)


def read_next(body: bytes) -> list[float]:
    """Return the top log-probabilities of an answer's first token, highest first; empty if there are none."""
    choices = _list((_parse(body) or {}).get("choices"))
    try:
        return sorted(map(float, choices[0]["logprobs"]["top_logprobs"][0].values()), reverse=True)
    except (ValueError, LookupError, TypeError, AttributeError):
        return []


def late_body(deadline_s: float) -> bytes:
    """Return the body for an answer that did not begin before its deadline."""
    message = f"The answer was not complete within {deadline_s:g} s; ask for fewer tokens, or wait longer."
    return json.dumps({"error": {"message": message, "type": "timeout_error", "param": None}}).encode()


def _class_of(body: bytes, otherwise: str) -> str:
    """Return the class of a reported failure."""
    return "EngineDeadError" if any(mark in body for mark in _DEAD) else otherwise


def _parse(body: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a body, or None."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _filled(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if value}


def _texts_of(message: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts of a message: its content, its reasoning, and the arguments of its calls."""
    for key in _TEXTS:
        if isinstance(message.get(key), str) and message[key]:
            yield message[key]
    for call in filter(_is_object, _list(message.get("tool_calls"))):
        function = call.get("function")
        for key in ("name", "arguments"):
            if isinstance(function, dict) and isinstance(function.get(key), str) and function[key]:
                yield function[key]


def _logprobs_of(logprobs: Any) -> list[float]:
    """Return the log-probability, in nats, of each token of a choice."""
    if not isinstance(logprobs, dict):
        return []
    entries = [entry.get("logprob") for entry in filter(_is_object, _list(logprobs.get("content")))]
    values = [*entries, *_list(logprobs.get("token_logprobs"))]
    return [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
