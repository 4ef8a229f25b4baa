"""What everything that describes texts does, fake or real: inherited by one test class for each."""

from services.gateway.domain.excerpts import SAMPLED_CHARS, Described, Excerpts
from tests.unit.gateway.fake_describer import describe

ANSWER = "Press the button for 5 seconds."


class DescriberConformance:
    """Needs the fixture `describer`."""

    async def test_features_come_in_the_order_of_the_texts(self, describer):
        texts = [("How?", ANSWER), ("Why?", "I'm sorry, but I can't help."), ("", ""), ("Again?", "over and " * 40)]
        described = await describer.describe([Excerpts.of(*text) for text in texts])
        assert described == [Described(describe(*text)) for text in texts]

    async def test_an_answer_that_cannot_be_judged_by_its_form_is_told_apart(self, describer):
        form = '{"response_format": {"type": "json_object"}}'
        bodies = [b'{"choices": [{"index": 0, "message": {"content": "{}"}}]}', b"", b"no JSON"]
        texts = [Excerpts.of("How?", ANSWER, form=form, delivered=body) for body in bodies]
        described = await describer.describe(texts)
        assert [told.is_judged for told in described] == [True, False, False]
        assert [told.features.valid_json for told in described] == [True, None, None]
        assert [told.features.output_chars for told in described] == [len(ANSWER)] * 3

    async def test_nothing_to_describe(self, describer):
        assert await describer.describe([]) == []

    async def test_any_text(self, describer):
        texts = [("\ud800", "\udfff\x00\n\r\u2028 \U0001f600"), ("x\ny", "\n"), ("x" * 5000, "word " * SAMPLED_CHARS)]
        described = await describer.describe([Excerpts.of(*text) for text in texts])
        assert described == [Described(describe(*text)) for text in texts]

    async def test_one_batch_after_another(self, describer):
        for number in range(3):
            output = f"{ANSWER} {number}"
            assert await describer.describe([Excerpts.of("How?", output)]) == [Described(describe("How?", output))]
