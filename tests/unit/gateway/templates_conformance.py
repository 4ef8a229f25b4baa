"""What every renderer of templates does: inherited by one test class for each."""

import pytest

from services.gateway.ports import MessagesRejected, TemplateFailed
from testbed.factories import CHATML

MESSAGES = [{"role": "user", "content": "Hi <b>"}]


async def render(templates, template):
    return await templates.render(template, MESSAGES, bos_token="<s>", eos_token="</s>")


class TemplatesConformance:
    """Return the fixture `templates`."""

    async def test_renders_up_to_where_the_assistant_speaks(self, templates):
        expected = "<|im_start|>user\nHi <b><|im_end|>\n<|im_start|>assistant\n"
        assert await render(templates, CHATML) == expected

    async def test_knows_the_special_tokens(self, templates):
        assert await render(templates, "{{ bos_token }}{{ eos_token }}") == "<s></s>"

    async def test_a_refusal_carries_its_reason(self, templates):
        with pytest.raises(MessagesRejected, match="must alternate"):
            await render(templates, "{{ raise_exception('roles must alternate') }}")

    @pytest.mark.parametrize("template", ["{% for %}", "{{ 1 / 0 }}", "{{ messages.__class__.__mro__ }}"])
    async def test_a_broken_template_is_no_refusal(self, templates, template):
        with pytest.raises(TemplateFailed):
            await render(templates, template)

    @pytest.mark.parametrize(
        ("template", "plain"),
        [
            (CHATML, True),
            ("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}", True),
            ("{% if messages|length > 2 %}{{ 1 / 0 }}{% endif %}", False),
            ("{% for %}", False),
            ("{{ raise_exception('no') }}", False),
            ("{{ '\\ud800' }}", False),
        ],
    )
    async def test_tells_a_broken_template_from_broken_messages(self, templates, template, plain):
        assert await templates.renders_probe(template, bos_token="<s>", eos_token="</s>") is plain
