"""A question that takes a tool to answer, asked through openai-python as any program would."""

import json
import sys
from typing import Any

import jsonschema
import openai
from openai.types.chat import ChatCompletion

from examples.smollm2.orders import TOOL

NUMBER = 5836
"""Texts are not full of it: after "123" the model expects the end of the number almost as much as a 4."""
QUESTION = f"What is the status of order {NUMBER}?"
ORDERS = {NUMBER: {"number": NUMBER, "status": "shipped", "since": "Tuesday"}}
"""What the tool knows."""


def is_answered_by_tool(url: str, key: str, model: str) -> bool:
    """Ask a question with a tool, run the tool that the model calls, and return its result for an answer.

    Prints the call, the result and the answer. Returns whether the call was valid: of the tool, by its schema, and for
    the order that was asked about.
    """
    turns: list[Any] = [{"role": "user", "content": QUESTION}]
    print(f"  user: {QUESTION}")
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, timeout=60) as client:
        version, asked = ask(client, model, turns)
        called = asked.choices[0].message
        if not called.tool_calls:
            print(f"  {version}: {called.content}\n  The model did not call the tool.", file=sys.stderr)
            return False
        turns.append(called.model_dump(exclude_none=True))
        valid = True
        for call in called.tool_calls:
            assert call.type == "function"
            print(f"  {version} (tool_choice auto): {call.function.name}({call.function.arguments})")
            if problem := problem_of(call.function.name, call.function.arguments):
                print(f"  The call is not valid: {problem}", file=sys.stderr)
                valid = False
            result = find_order(call.function.arguments)
            print(f"  tool: {result}")
            turns.append({"role": "tool", "tool_call_id": call.id, "content": result})
        version, answered = ask(client, model, turns)
    print(f"  {version}: {answered.choices[0].message.content}")
    return valid


def ask(client: openai.OpenAI, model: str, turns: list[Any]) -> tuple[str, ChatCompletion]:
    """Return the version that answered, and its answer."""
    tool: Any = {**TOOL, "function": {**TOOL["function"], "strict": True}}
    response = client.chat.completions.with_raw_response.create(
        model=model, messages=turns, tools=[tool], tool_choice="auto", temperature=0.0, max_tokens=64
    )
    return response.headers["x-slipway-version"], response.parse()


def problem_of(name: str, arguments: str) -> str | None:
    """Return why a call is not the one that the question takes; None if it is."""
    if name != TOOL["function"]["name"]:
        return f"there is no tool {name!r}"
    try:
        given = json.loads(arguments)
        jsonschema.validate(given, TOOL["function"]["parameters"])
    except (ValueError, jsonschema.ValidationError) as error:
        return str(error)
    return None if given["number"] == NUMBER else f"the question is about order {NUMBER}"


def find_order(arguments: str) -> str:
    """Return what the shop knows about an order, as JSON; for arguments that are not valid, an error that says so."""
    try:
        number = json.loads(arguments)["number"]
        return json.dumps(ORDERS[number])
    except (ValueError, KeyError, TypeError):
        return json.dumps({"error": f"there is no order {arguments}"})
