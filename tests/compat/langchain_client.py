"""LangChain's client of the OpenAI API."""

from langchain_openai import ChatOpenAI

from tests.compat.cases import SCHEMA, TOOL, address, expect, run_cases

URL, MODEL = address()
LLM = ChatOpenAI(model=MODEL, base_url=URL, max_tokens=60, temperature=0, max_retries=0, timeout=60)


def invoke() -> None:
    """Ask for one answer."""
    answer = LLM.invoke("Say hi.")
    expect(answer.content, "an empty answer")
    expect(answer.usage_metadata["output_tokens"] > 0, "no usage")


def stream() -> None:
    """Ask for a stream."""
    expect("".join(chunk.content for chunk in LLM.stream("Say hi.")), "an empty stream")


def bind_tools() -> None:
    """Ask for the call of a tool."""
    (call,) = LLM.bind_tools([TOOL], tool_choice="required").invoke("How many?").tool_calls
    expect(call["name"] == "look_up" and call["args"]["count"] in {1, 2, 3}, str(call))


def with_structured_output() -> None:
    """Ask for JSON by a schema."""
    answer = LLM.with_structured_output(SCHEMA, method="json_schema", strict=True).invoke("How many?")
    expect(answer["count"] in {1, 2, 3}, str(answer))


def responses() -> None:
    """Use the responses API."""
    answer = ChatOpenAI(model=MODEL, base_url=URL, max_tokens=20, max_retries=0, use_responses_api=True).invoke(
        "Say hi."
    )
    expect(answer.text, "an empty answer")


CASES = (invoke, stream, bind_tools, with_structured_output, responses)
run_cases("langchain-openai", {case.__name__: case for case in CASES})
