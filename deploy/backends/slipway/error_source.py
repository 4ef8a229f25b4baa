"""Sources of errors of the OpenAI API, for the records of answers.

    validation: the request is invalid.
    template_refused: the template rejected these messages on purpose (`raise_exception`).
    settings: the target lacks a setting for the request, such as a tool parser.
    deadline: the time limit of the whole answer.
    template, tokenizer, parser, engine, application: a part of the target failed.

vLLM answers an invalid request, a failing template and a missing setting with the same status.
"""

import re
import traceback
from collections.abc import Iterator

_SETTINGS = re.compile(
    r"\"auto\" tool choice requires --|tool_choice=.{0,200} requires --tool-call-parser"
    r"|thinking_token_budget is set but reasoning_config|As of transformers v4.44, default chat template"
    r"|The model does not support \w+",
    re.DOTALL,
)
"""Beginnings of vLLM's messages about a missing setting, template or ability."""
_MODULES = {
    "template": ("jinja2",),
    "parser": ("vllm.tool_parsers", "vllm.reasoning", "vllm.parser"),
    "tokenizer": ("transformers", "tokenizers", "vllm.tokenizers"),
    "validation": ("pydantic", "vllm.v1.engine.input_processor"),
    "engine": ("vllm.v1",),
}
"""Packages in an error's traceback by source, in order of precedence."""
_REFUSE = "raise_exception"
"""The function that a template calls to reject messages."""
_ENGINE_ERRORS = frozenset({"EngineDeadError", "EngineGenerateError", "GenerationError", "RetryableRequestError"})
_VALIDATION_ERRORS = frozenset({"RequestValidationError", "VLLMClientError", "HTTPException"})


def find_source(error: BaseException, *, started: bool) -> str:
    """Return the source of an error, from the classes of its causes and the modules in their tracebacks.

    Args:
        error: the exception, with its traceback.
        started: whether the engine had begun to answer.
    """
    chain = list(_causes(error))
    names = {kind.__name__ for cause in chain for kind in type(cause).__mro__}
    if names & _ENGINE_ERRORS:
        return "engine"
    frames = [frame for cause in chain for frame, _ in traceback.walk_tb(cause.__traceback__)]
    if any(type(cause).__module__.partition(".")[0] == "jinja2" for cause in chain):
        return "template_refused" if any(frame.f_code.co_name == _REFUSE for frame in frames) else "template"
    if is_missing_setting(str(error)):
        return "settings"
    modules = [frame.f_globals.get("__name__", "") for frame in frames]
    for source, packages in _MODULES.items():
        if any(module == package or module.startswith(f"{package}.") for module in modules for package in packages):
            # vLLM reports a caller's mistake as a class of its own, also where a tokenizer or the engine meets it.
            mistaken = source != "template" and names & _VALIDATION_ERRORS
            return "validation" if mistaken else source
    if names & _VALIDATION_ERRORS or (not started and names & {"ValueError", "TypeError"}):
        return "validation"
    return "application"


def is_missing_setting(message: str) -> bool:
    """Return whether vLLM's message is about a missing setting of the target."""
    return _SETTINGS.match(message) is not None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its chain of causes and contexts."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
