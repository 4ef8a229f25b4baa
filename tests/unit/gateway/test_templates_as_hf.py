"""Our rendering is byte for byte that of transformers, on the shapes of template that open models ship."""

import json

import pytest

from shared.serving.chat_template_worker import answer
from testbed.factories import CHATML

LLAMA = (
    "{{- bos_token }}\n{%- set date = strftime_now('%Y') %}\n{%- for message in messages %}\n"
    "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}\n"
    "    {{- message['content'] | trim + '<|eot_id|>' }}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'system' %}{% continue %}{% endif %}"
    "{% if message.role == 'user' %}{{ '[INST] ' + message.content + ' [/INST]' }}"
    "{% else %}{{ message.content + eos_token }}{% endif %}{% endfor %}"
)
JSONISH = "{% for m in messages %}\n  {{ m | tojson }}\n  {{ m | tojson(indent=2) }}\n{% endfor %}\n"
TRAINING = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}{{ tools is none }}"
BLOCKS = "{% set ns = namespace(n=0) %}\n  {% for m in messages %}\n    {% set ns.n = ns.n + 1 %}\n{{ ns.n }}\n  {% endfor %}\n"
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " <b>Grüße</b> & \"quotes\" 'n' 漢字\n"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "{{ 7 * 7 }}"},
]


@pytest.mark.parametrize("template", [CHATML, LLAMA, MISTRAL, JSONISH, TRAINING, BLOCKS])
def test_rendering_as_transformers(template):
    from transformers.utils.chat_template_utils import render_jinja_template

    from shared.runtime.clock import SystemClock

    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    (theirs,), _ = render_jinja_template(
        conversations=[MESSAGES], chat_template=template, add_generation_prompt=True, **tokens
    )
    variables = {"messages": MESSAGES, "tools": None, "documents": None, "add_generation_prompt": True, **tokens}
    request = {"template": template, "now": SystemClock().now().isoformat(), "variables": variables}
    assert answer(json.loads(json.dumps(request))) == {"text": theirs}
