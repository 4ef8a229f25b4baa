"""What everything that describes texts does, fake or real: inherited by one test class for each."""

from services.gateway.domain.excerpts import SAMPLED_CHARS, Excerpts
from tests.unit.gateway.fake_describer import describe

ANSWER = "Press the button for 5 seconds."


class DescriberConformance:
    """Needs the fixture `describer`."""

    async def test_features_come_in_the_order_of_the_texts(self, describer):
        texts = [("How?", ANSWER), ("Why?", "I'm sorry, but I can't help."), ("", ""), ("Again?", "over and " * 40)]
        described = await describer.describe([Excerpts.of(*text) for text in texts])
        assert described == [describe(*text) for text in texts]

    async def test_nothing_to_describe(self, describer):
        assert await describer.describe([]) == []

    async def test_any_text(self, describer):
        texts = [("\ud800", "\udfff\x00\n\r\u2028 \U0001f600"), ("x\ny", "\n"), ("x" * 5000, "word " * SAMPLED_CHARS)]
        assert await describer.describe([Excerpts.of(*text) for text in texts]) == [describe(*text) for text in texts]

    async def test_one_batch_after_another(self, describer):
        for number in range(3):
            output = f"{ANSWER} {number}"
            assert await describer.describe([Excerpts.of("How?", output)]) == [describe("How?", output)]
