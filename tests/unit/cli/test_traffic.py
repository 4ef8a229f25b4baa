"""`slipway traffic`: what it sends, and what it counts of what comes back."""

import http.server
import json
import os
import signal
import threading

import pytest

from clients.cli.commands import traffic as command
from clients.cli.errors import CommandError, Exit
from tests.kit.local_http import LocalHttp

KEY = f"sk-slipway-{'0' * 12}-{'0' * 64}"
BUSY = {"error": {"message": "no endpoint serves it"}}


class Gateway(LocalHttp):
    """Answers each third request with an error, the others in turn as version 1 and 2."""

    def __init__(self) -> None:
        self.asked: list[dict] = []

    def _handler(self):
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self._send(200 if self.path.endswith("/bot") else 404, b'{"error": {"message": "unknown"}}')

            def do_POST(self):
                asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                number = int(asked[-1]["user"].removeprefix("user-"))
                if number % 3 == 2:
                    self._send(503, json.dumps(BUSY).encode())
                    return
                chunks = [{"choices": [{"delta": {"content": text}}]} for text in ("", "hi")]
                body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
                headers = {"x-slipway-release": f"bot@v{number % 3 + 1}"}
                self._send(200, body.encode(), headers | ({"x-slipway-drill": "d-1"} if number == 0 else {}))

            def _send(self, status, body, headers=None):
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler


@pytest.fixture
def gateway(tmp_path, monkeypatch):
    (tmp_path / "key").write_text(KEY)
    monkeypatch.setenv("SLIPWAY_NATS_URL", "nats://127.0.0.1:1")
    monkeypatch.setenv("SLIPWAY_GATEWAY_KEY", str(tmp_path / "key"))
    with Gateway() as server:
        monkeypatch.setenv("SLIPWAY_GATEWAY_URL", server.url)
        yield server


def test_answers_are_counted_by_version_with_the_time_to_their_first_text_and_failures_by_reason(gateway, capsys):
    command.traffic(model="bot", rate=60.0, lasting="0.1s", as_json=True)
    seen = json.loads(capsys.readouterr().out)
    assert (seen["sent"], seen["drilled"]) == (6, 1)
    assert {name: each["requests"] for name, each in seen["answered"].items()} == {"bot@v1": 2, "bot@v2": 2}
    assert all(0 < each["ttft_p50_ms"] <= each["ttft_p99_ms"] for each in seen["answered"].values())
    assert seen["failures"] == {"the gateway refused the request (503): no endpoint serves it": 2}
    assert len({body["user"] for body in gateway.asked}) == 6
    command.traffic(model="bot", rate=60.0, lasting="0.1s")
    assert capsys.readouterr().out.splitlines()[-1] == ("6 requests, 4 answered, 1 with the fault of a drill, 2 failed")


def test_a_signal_ends_it_with_a_summary(gateway, capsys):
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    command.traffic(model="bot", rate=20.0)
    assert "failed" in capsys.readouterr().out.splitlines()[-1]


def test_an_unknown_model_is_refused_before_anything_is_sent(gateway):
    with pytest.raises(CommandError, match="404"):
        command.traffic(model="other")
    assert gateway.asked == []


@pytest.mark.parametrize("rate", [0.0, -1.0, 101.0, float("nan")])
def test_a_rate_that_is_not_valid_is_refused(rate):
    with pytest.raises(CommandError, match="--rate") as refused:
        command.traffic(model="bot", rate=rate)
    assert refused.value.code is Exit.USAGE


@pytest.mark.parametrize(("percent", "expected"), [(50, 2.0), (99, 4.0), (1, 1.0)])
def test_a_percentile_is_that_of_the_nearest_rank(percent, expected):
    assert command.percentile([4.0, 2.0, 1.0, 3.0], percent) == expected
    assert command.percentile([], percent) is None
