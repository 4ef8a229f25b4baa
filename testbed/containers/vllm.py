"""vLLM on the CPU in its container: a release of a tiny model, and answers through the gateway."""

import json
import time
from dataclasses import dataclass

import httpx

from testbed.containers import engine
from testbed.containers.demo import PROMOTED_S
from testbed.containers.installation import MODEL, Installation
from testbed.containers.waiting import report, step, wait_for
from testbed.stack import DATA_HASH, POLICY

FILES = ("compose.yaml", "deploy/docker/compose.seaweedfs.yaml", "deploy/docker/compose.vllm.yaml")
VARIABLES = {"SLIPWAY_MAX_MODEL_LEN": "512"}
HIDDEN = 256
"""Width of the tiny model: vLLM's attention on the CPU takes no narrower heads."""
QUESTIONS = 20


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
            self._release()
        with step(f"ask it {QUESTIONS} times through the gateway"):
            key = json.loads(self.stack.slipway("keys", "issue", "demo", "--model", MODEL, "--json"))["key"]
            headers = {"authorization": f"Bearer {key}"}
            wait_for(lambda: self._ask(headers), 60, "answer")
            answers = [self._ask(headers) for _ in range(QUESTIONS)]
            if not all(answers):
                raise RuntimeError(f"{answers.count(None)} of {QUESTIONS} requests got no answer")
            took = sorted(seconds for seconds, _, _ in filter(None, answers))
            _, release, text = next(filter(None, answers))
            report(f"{release} answers in {took[len(took) // 2]:.2f} s, at most {took[-1]:.2f} s: {text!r}")
            report(f"the version that runs it: {self._runtime()}")
            used = engine.podman("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}")
            report(next(line for line in used.splitlines() if "-triton-" in line))
        with step("end everything"):
            self.stack.down()

    def _release(self) -> None:
        began = time.monotonic()
        checkpoint = ("--base", "tiny-llama", "--adapter", "/models/one", "--variant", "bf16")
        proof = ("--run-id", "run-one", "--data-hash", DATA_HASH, "--policy", "/models/policy.json")
        self.stack.slipway("publish", "--model", MODEL, *checkpoint, *proof)
        follow = ("--follow", "--until", "finished", "--timeout", str(PROMOTED_S))
        shown = self.stack.slipway("status", MODEL, *follow, timeout_s=PROMOTED_S + 60)
        for line in shown.strip().splitlines()[-12:]:
            report(line)
        report(f"serves {time.monotonic() - began:.1f} s after it was published")

    def _ask(self, headers: dict[str, str]) -> tuple[float, str, str] | None:
        """Return how long an answer of 16 tokens took, its release and its text, or nothing."""
        messages = [{"role": "user", "content": "Where is my order?"}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 16}
        began = time.monotonic()
        try:
            answer = httpx.post(
                f"{self.stack.url}/v1/chat/completions", json=body, headers=headers, timeout=60, trust_env=False
            )
            answer.raise_for_status()
        except httpx.HTTPError:
            return None
        text = answer.json()["choices"][0]["message"]["content"]
        return time.monotonic() - began, answer.headers["x-slipway-release"], str(text)

    def _runtime(self) -> str:
        (container,) = self.stack.containers("triton")
        command = ("exec", container["Name"], "cat", "/opt/triton/runtime.json")
        return str(json.loads(engine.podman(*command))["engine_version"])
