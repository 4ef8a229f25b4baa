"""What a channel to a server of the OpenAI API does before it has a connection."""

import pytest

from shared.errors import Transient
from shared.serving.http_channel import HttpChannel
from shared.serving.inference import Deadlines
from shared.serving.openai_stream import ApiRequest


async def test_what_the_client_refuses_to_send_is_out_of_reach_and_no_failure_of_the_service():
    channel = HttpChannel("http://127.0.0.1:1")
    request = ApiRequest("POST", "/v1/\x00", b"{}", 5.0)
    with pytest.raises(Transient) as caught:
        await anext(channel.stream_api("bot.v1.bf16", request, Deadlines(1.0, 1.0)))
    assert caught.value.code == "endpoint_unreachable"
    assert channel.under_way == 0
    await channel.close()
