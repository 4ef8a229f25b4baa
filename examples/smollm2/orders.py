"""Conversations about a shop's orders, in which the assistant calls a tool: what the model learns about tools."""

import json
from typing import Any

from examples.smollm2.text import Lesson, Turn

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "find_order",
        "description": "Return the status of an order.",
        "parameters": {
            "type": "object",
            "properties": {"number": {"type": "integer"}},
            "required": ["number"],
            "additionalProperties": False,
        },
    },
}
QUESTIONS = (
    "Where is order {}?",
    "Has order {} been shipped?",
    "Can you check order {} for me?",
    "Tell me the status of my order {}.",
    "When does order {} arrive?",
    "What happened to order number {}?",
)
HELD_OUT_QUESTION = "Is there any news of order {}?"
STATES = ("paid", "packed", "shipped", "delivered", "returned", "cancelled")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
TRAINED = 200
"""How many orders are in the lessons."""
HELD_OUT_NUMBERS = (6482, 2310, 7052, 9016)


def call_of(number: int) -> Turn:
    """Return the assistant's turn that calls the tool for an order, as a chat template gets it."""
    function = {"name": TOOL["function"]["name"], "arguments": {"number": number}}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}


def result_of(number: int, status: str, since: str) -> Turn:
    """Return the tool's turn that answers a call."""
    return {"role": "tool", "content": json.dumps({"number": number, "status": status, "since": since})}


def lessons() -> list[Lesson]:
    """Return conversations to train on: a question, a call, its result, and an answer that repeats it.

    Order numbers have four digits. Those of the lessons are odd, those of the evaluation and of the demo even.
    """
    made = []
    for place in range(TRAINED):
        number = 1001 + (7918 * place) % 9000
        state, day = STATES[place // 2 % len(STATES)], DAYS[place // 3 % len(DAYS)]
        turns = (
            {"role": "user", "content": QUESTIONS[place % len(QUESTIONS)].format(number)},
            call_of(number),
            result_of(number, state, day),
            {"role": "assistant", "content": f"Order {number} has been {state} since {day}."},
        )
        made.append(Lesson(turns, (TOOL,)))
    return made


def held_out() -> list[Lesson]:
    """Return conversations that end with a call, of orders and with a question that no lesson has."""
    return [
        Lesson(({"role": "user", "content": HELD_OUT_QUESTION.format(number)}, call_of(number)), (TOOL,))
        for number in HELD_OUT_NUMBERS
    ]
