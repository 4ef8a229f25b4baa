"""LiteLLM as a client, with its provider for servers of the OpenAI API."""

import json

import litellm

from tests.compat.cases import SCHEMA, TALK, TOOL, address, expect, run_cases

URL, MODEL = address()
ASKED = {
    "model": f"openai/{MODEL}",
    "api_base": URL,
    "messages": TALK,
    "max_tokens": 60,
    "temperature": 0,
    "num_retries": 0,
}


def completion() -> None:
    """Ask for one answer."""
    answer = litellm.completion(**ASKED)
    expect(answer.choices[0].message.content and answer.usage.completion_tokens, str(answer))


def stream() -> None:
    """Ask for a stream."""
    chunks = litellm.completion(**ASKED, stream=True)
    expect("".join(chunk.choices[0].delta.content or "" for chunk in chunks), "an empty stream")


def tools() -> None:
    """Ask for the call of a tool."""
    (call,) = litellm.completion(**ASKED, tools=[TOOL], tool_choice="required").choices[0].message.tool_calls
    expect(json.loads(call.function.arguments)["count"] in {1, 2, 3}, str(call))


def json_schema() -> None:
    """Ask for JSON by a schema."""
    form = {"type": "json_schema", "json_schema": {"name": "count", "schema": SCHEMA, "strict": True}}
    answer = litellm.completion(**ASKED, response_format=form).choices[0].message.content
    expect(json.loads(answer)["count"] in {1, 2, 3}, answer)


def text_completion() -> None:
    """Ask for the continuation of a text."""
    asked = {**ASKED, "prompt": "One, two,"}
    del asked["messages"]
    expect(litellm.text_completion(**{**asked, "model": f"text-completion-openai/{MODEL}"}).choices[0].text, "empty")


def responses() -> None:
    """Use the responses API."""
    answer = litellm.responses(model=f"openai/{MODEL}", input="Say hi.", api_base=URL, max_output_tokens=20)
    expect(answer.output[0].content[0].text, str(answer))


def callers_mistake() -> None:
    """Read the exception for a caller's mistake."""
    try:
        litellm.completion(**{**ASKED, "n": 33})
    except litellm.BadRequestError:
        return
    expect(condition=False, what="no BadRequestError")


CASES = (completion, stream, tools, json_schema, text_completion, responses, callers_mistake)
run_cases("litellm", {case.__name__: case for case in CASES})
