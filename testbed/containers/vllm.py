"""vLLM on the CPU in its container: two releases of a tiny model, answers through the gateway, and a rollback."""

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from testbed.containers import engine
from testbed.containers.demo import PROMOTED_S, rollback_durations
from testbed.containers.installation import MODEL, Installation
from testbed.containers.waiting import report, step, wait_for
from testbed.stack import DATA_HASH, POLICY
from testbed.users import Users

FILES = ("compose.yaml", "deploy/docker/compose.seaweedfs.yaml", "deploy/docker/compose.vllm.yaml")
VARIABLES = {"SLIPWAY_MAX_MODEL_LEN": "512"}
HIDDEN = 256
"""Width of the tiny model: vLLM's attention on the CPU takes no narrower heads."""
QUESTIONS = 20


@dataclass(frozen=True)
class Answer:
    """An answer: seconds to its first text, None without any, and to its end, the release that gave it, its text."""

    first_s: float | None
    all_s: float
    release: str
    text: str


def describe_times(name: str, times: Sequence[float | None]) -> str:
    """Return the median and the longest of some times in seconds, as milliseconds, and how many answers have none."""
    known = [each for each in times if each is not None]
    if not known:
        return f"{name}: none of {len(times)} answers had any text"
    without = f"; without text: {len(times) - len(known)}" if len(known) < len(times) else ""
    return f"{name}: median {statistics.median(known) * 1000:.0f} ms, at most {max(known) * 1000:.0f} ms{without}"


@dataclass
class Vllm:
    """The steps, in their order."""

    stack: Installation

    def run(self) -> None:
        """Run all steps."""
        with step("start all services"):
            self.stack.up()
        with step("import a base model, publish a checkpoint, promote it"):
            (self.stack.folder / "models/policy.json").write_text(json.dumps(POLICY))
            self.stack.slipway("base", "import", "/models/tiny-llama")
            self._release("one")
        with step(f"ask it {QUESTIONS} times through the gateway"):
            key = json.loads(self.stack.slipway("keys", "issue", "demo", "--model", MODEL, "--unlimited", "--json"))[
                "key"
            ]
            headers = {"authorization": f"Bearer {key}"}
            wait_for(lambda: self.ask(headers), 60, "answer")
            self._ask_often(headers)
            report(f"the version that runs it: {self._runtime()}")
        with step("publish a second checkpoint, promote it"):
            self._release("two")
            used = engine.podman("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}")
            report(next(line for line in used.splitlines() if "-triton-" in line))
        with step("order a rollback under traffic"):
            self._roll_back(headers)
        with step("end everything"):
            self.stack.down()

    def _ask_often(self, headers: dict[str, str]) -> None:
        answers = [self.ask(headers) for _ in range(QUESTIONS)]
        good = [answer for answer in answers if answer is not None]
        if len(good) < QUESTIONS:
            raise RuntimeError(f"{QUESTIONS - len(good)} of {QUESTIONS} requests got no answer")
        report(describe_times("first token", [each.first_s for each in good]))
        report(describe_times("16 tokens", [each.all_s for each in good]))
        report(f"{good[0].release}: {good[0].text!r}")

    def _roll_back(self, headers: dict[str, str]) -> None:
        with Users(self.stack.url, headers, MODEL) as users:
            wait_for(
                lambda: users.last == f"{MODEL}@v2", 60, "answer of version 2", lambda: f"the last was {users.last}"
            )
            began = time.monotonic()
            self.stack.slipway("rollback", MODEL, "--target", f"{MODEL}.v2.bf16", "--reason", "demo")
            wait_for(
                lambda: users.last == f"{MODEL}@v1", 60, "answer of version 1", lambda: f"the last was {users.last}"
            )
            report(f"version 1 answers {time.monotonic() - began:.1f} s after the command began")
        lines = self.stack.slipway("events", MODEL, "--type", "rollback.completed", "--json").splitlines()
        (done,) = (json.loads(line)["data"] for line in lines if line.startswith("{"))
        report(rollback_durations(done["timeline"]))
        if users.failed:
            raise RuntimeError(f"{len(users.failed)} requests failed: {users.failed[:3]}")
        report(f"{sum(users.answered.values())} requests, none failed")

    def _release(self, adapter: str) -> None:
        began = time.monotonic()
        checkpoint = ("--base", "tiny-llama", "--adapter", f"/models/{adapter}", "--variant", "bf16")
        proof = ("--run-id", f"run-{adapter}", "--data-hash", DATA_HASH, "--policy", "/models/policy.json")
        self.stack.slipway("publish", "--model", MODEL, *checkpoint, *proof)
        follow = ("--follow", "--until", "finished", "--timeout", str(PROMOTED_S))
        shown = self.stack.slipway("status", MODEL, *follow, timeout_s=PROMOTED_S + 60)
        for line in shown.strip().splitlines()[-12:]:
            report(line)
        report(f"serves {time.monotonic() - began:.1f} s after it was published")

    def ask(self, headers: dict[str, str]) -> Answer | None:
        """Return an answer of 16 tokens, as it streams, or nothing."""
        messages = [{"role": "user", "content": "Where is my order?"}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 16, "ignore_eos": True, "stream": True}
        began, text = time.monotonic(), ""
        first_s: float | None = None
        url = f"{self.stack.url}/v1/chat/completions"
        try:
            with httpx.stream("POST", url, json=body, headers=headers, timeout=60, trust_env=False) as answer:
                answer.raise_for_status()
                for line in answer.iter_lines():
                    if not line.startswith("data: {"):
                        continue
                    for choice in json.loads(line.removeprefix("data: ")).get("choices", ()):
                        text += choice["delta"].get("content") or ""
                    if text and first_s is None:
                        first_s = time.monotonic() - began
        except httpx.HTTPError:
            return None
        return Answer(first_s, time.monotonic() - began, answer.headers["x-slipway-release"], text)

    def _runtime(self) -> str:
        (container,) = self.stack.containers("triton")
        command = ("exec", container["Name"], "cat", "/opt/triton/runtime.json")
        return str(json.loads(engine.podman(*command))["engine_version"])
