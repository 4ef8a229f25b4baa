"""A question whose answer is JSON by a schema, asked through openai-python as any program would."""

import json
import sys
from typing import Any

import jsonschema
import openai

QUESTION = "Is the for statement of Python a loop?"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "statement": {"enum": ["for", "if", "import"]},
        "is_loop": {"type": "boolean"},
        "keywords": {"type": "array", "items": {"enum": ["for", "in", "else"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["statement", "is_loop", "keywords"],
    "additionalProperties": False,
}


def is_answered_by_schema(url: str, key: str, model: str) -> bool:
    """Ask a question, print the answer and the version that gave it, and return whether it is valid."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, timeout=60) as client:
        response = client.chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": QUESTION}],
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
            },
            max_tokens=80,
        )
    text = response.parse().choices[0].message.content or ""
    print(f"  {QUESTION}\n  {response.headers['x-slipway-version']}: {text}")
    try:
        jsonschema.validate(json.loads(text), SCHEMA)
    except (ValueError, jsonschema.ValidationError) as error:
        print(f"  The answer is not what the schema asks for: {error}", file=sys.stderr)
        return False
    return True
