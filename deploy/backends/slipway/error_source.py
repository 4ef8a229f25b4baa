"""Which part of a target an error of the OpenAI API came from, or whether the request is the reason."""

import traceback
from collections.abc import Iterator

_MODULES = {
    "template": ("jinja2",),
    "parser": ("vllm.tool_parsers", "vllm.reasoning", "vllm.parser"),
    "tokenizer": ("transformers", "tokenizers", "vllm.tokenizers"),
    "validation": ("pydantic", "vllm.v1.engine.input_processor"),
    "engine": ("vllm.v1",),
}
"""Packages that an error's traceback leads through, by the part that they are: the first part that fits counts."""
_ENGINE_ERRORS = frozenset({"EngineDeadError", "EngineGenerateError", "GenerationError", "RetryableRequestError"})
_VALIDATION_ERRORS = frozenset({"RequestValidationError", "VLLMClientError", "HTTPException"})


def find_source(error: BaseException, *, started: bool) -> str:
    """Return which part an error came from: by its causes' classes, and the modules that their tracebacks lead through.

    Args:
        error: the exception, with its traceback.
        started: whether the engine had begun to answer.
    """
    chain = list(_causes(error))
    names = {kind.__name__ for cause in chain for kind in type(cause).__mro__}
    if names & _ENGINE_ERRORS:
        return "engine"
    if any(type(cause).__module__.partition(".")[0] == "jinja2" for cause in chain):
        return "template"
    modules = [
        frame.f_globals.get("__name__", "") for cause in chain for frame, _ in traceback.walk_tb(cause.__traceback__)
    ]
    for source, packages in _MODULES.items():
        if any(module == package or module.startswith(f"{package}.") for module in modules for package in packages):
            # vLLM reports a caller's mistake as a class of its own, also where a tokenizer or the engine meets it.
            mistaken = source != "template" and names & _VALIDATION_ERRORS
            return "validation" if mistaken else source
    if names & _VALIDATION_ERRORS or (not started and names & {"ValueError", "TypeError"}):
        return "validation"
    return "application"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from, or while handling."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
