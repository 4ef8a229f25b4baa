"""What the demo of vLLM in a container reports of its answers: an answer without text has no time of a first token."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

from testbed.containers.vllm import Vllm, describe_times


@contextmanager
def gateway(*texts):
    """Serve one streamed answer with these texts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            events = [json.dumps({"choices": [{"delta": {"content": text}}]}) for text in texts]
            self.send_response(200)
            self.send_header("x-slipway-release", "bot@v1")
            self.end_headers()
            self.wfile.write("".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode())

        def log_message(self, *_):
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def ask(*texts):
    with gateway(*texts) as url:
        return Vllm(SimpleNamespace(url=url)).ask({})


def test_an_answer_has_the_time_of_its_first_text():
    answer = ask("", "an", "swer")
    assert answer.text == "answer"
    assert 0 < answer.first_s <= answer.all_s


def test_an_answer_without_text_has_no_time_of_a_first_token():
    assert ask("", "").first_s is None


def test_what_has_no_time_is_left_out_and_counted():
    assert describe_times("first token", [0.1, None, 0.3]) == (
        "first token: median 200 ms, at most 300 ms; without text: 1"
    )
    assert describe_times("first token", [None, None]) == "first token: none of 2 answers had any text"
    assert describe_times("16 tokens", [0.5]) == "16 tokens: median 500 ms, at most 500 ms"
