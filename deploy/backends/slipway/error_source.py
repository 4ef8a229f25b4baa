"""Where an error of the OpenAI API came from.

The sources, which the records of an answer name:

    validation: the request; its sender must change it.
    template_refused: the template rejected these messages on purpose (`raise_exception`).
    settings: the target's settings do not offer what the request asks for, such as tools without a tool parser.
    deadline: the time that the whole answer may take.
    template, tokenizer, parser, engine, application: a part of the target failed.

vLLM answers a caller's mistake, a template that fails and a missing setting with the same status.
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
"""How vLLM's messages begin that a missing setting, template or ability of the target is the reason of."""
_MODULES = {
    "template": ("jinja2",),
    "parser": ("vllm.tool_parsers", "vllm.reasoning", "vllm.parser"),
    "tokenizer": ("transformers", "tokenizers", "vllm.tokenizers"),
    "validation": ("pydantic", "vllm.v1.engine.input_processor"),
    "engine": ("vllm.v1",),
}
"""Packages that an error's traceback leads through, by the part that they are: the first part that fits counts."""
_REFUSE = "raise_exception"
"""The function that a template calls to reject messages."""
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
    """Return whether a message of vLLM says that the request needs a setting that the target lacks."""
    return _SETTINGS.match(message) is not None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from, or while handling."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
