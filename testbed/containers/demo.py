"""What the demo does with an installation, step by step; each step fails if what it shows did not happen."""

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from contracts.version import VERSION
from testbed.containers import engine
from testbed.containers.failures import Failures
from testbed.containers.installation import MODEL, Installation
from testbed.containers.isolation import findings, reach_findings
from testbed.containers.waiting import report, step, wait_for
from testbed.stack import DATA_HASH, POLICY
from testbed.users import Users

PROMOTED_S, ROLLED_BACK_S = 900, 300
"""Longest waits for a release and for a rollback; on two quiet cores they take about 60 s and 20 s."""
AUTOMATIC = {"min_requests": 10, "alpha": 0.01, "action": "automatic", "window_s": 5}
RELEASE_POLICY = {
    **POLICY,
    "rehearsal": "required",
    "canary": {"steps": [0.4], "min_requests": 20, "beta": 0.9, "deadline_s": PROMOTED_S},
    "triggers": [
        {"name": "slow", "metric": "ttft_ms", "threshold": 3000, "allowed_ratio": 0.1, **AUTOMATIC},
        {"name": "errors", "metric": "error_ratio", "threshold": 0.1, **AUTOMATIC},
    ],
}
HIDDEN = 32
NEWER = f"{VERSION}-newer"
REPLACED = ("registry", "server-manager")
"""Services that are replaced by a newer image under traffic, without a request that fails."""


@dataclass
class Demo:
    """The steps, in their order; those of `Failures` too if they are asked for."""

    stack: Installation
    failures: bool = False
    _key: str = ""
    _headers: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Run all steps."""
        with step("start all services"):
            self.stack.up()
            report(f"{len(self.stack.containers())} containers")
        with step("compare the containers with compose.yaml: limits, logs, networks, secrets"):
            self._check_isolation()
        with step("import a base model, publish a checkpoint, rehearse a rollback, promote"):
            self.stack.slipway("base", "import", "/models/tiny-llama")
            self._release("one", ("bf16",))
        with step("ask it through the gateway"):
            self._key = json.loads(
                self.stack.slipway("keys", "issue", "demo", "--model", MODEL, "--unlimited", "--json")
            )["key"]
            self._headers = {"authorization": f"Bearer {self._key}"}
            wait_for(self._answers, 60, "answer")
            report(repr(self.stack.ask(self._key, "Where is my order?")))
        with step("scale the quantiser to three"):
            self._scale()
        with Users(self.stack.url, self._headers, MODEL) as users:
            with step("publish a second checkpoint with three quantisers, promote it through a canary under traffic"):
                self._release("two", ("bf16", "int8"))
            with step("drill: slow answers; the rollback is automatic"):
                self._roll_back(users)
            with step(f"replace {' and '.join(REPLACED)} by newer images under traffic"):
                self._replace(REPLACED)
            with step("a program that hangs is killed and started again"):
                self._hang("registry")
        if users.failed:
            raise RuntimeError(f"{len(users.failed)} requests failed, of {_total(users)}: {users.failed[:3]}")
        report(f"{_total(users)} requests, none failed")
        with step("replace the only gateway by a newer image under traffic"):
            self._replace_gateway()
        if self.failures:
            Failures(self.stack, self._headers).run()
        with step("end everything"):
            self.stack.down()

    # -- the steps -----------------------------------------------------------------------------------------------------

    def _check_isolation(self) -> None:
        compose = json.loads(self.stack.compose("config", "--format", "json"))
        running = self.stack.containers()
        secrets = [path.read_text().strip() for path in self.stack.keys.rglob("*") if path.suffix in {".nk", ".s3"}]
        wrong = [*findings(compose, running, secrets), *reach_findings(self.stack.project)]
        if wrong:
            raise RuntimeError("\n".join(["the containers are not what compose.yaml says:", *wrong]))

    def _release(self, adapter: str, variants: tuple[str, ...]) -> None:
        """Publish a checkpoint, and return when it serves production."""
        began = time.monotonic()
        chosen = [word for variant in variants for word in ("--variant", variant)]
        checkpoint = ("--base", "tiny-llama", "--adapter", f"/models/{adapter}", *chosen)
        proof = ("--run-id", f"run-{adapter}", "--data-hash", DATA_HASH, "--policy", "/models/policy.json")
        self.stack.slipway("publish", "--model", MODEL, *checkpoint, *proof)
        follow = ("--follow", "--until", "finished", "--timeout", str(PROMOTED_S))
        shown = self.stack.slipway("status", MODEL, *follow, timeout_s=PROMOTED_S + 60)
        for line in shown.strip().splitlines()[-12:]:
            report(line)
        report(f"serves {time.monotonic() - began:.1f} s after it was published")

    def _answers(self) -> bool:
        try:
            return bool(self.stack.ask(self._key, "hello"))
        except httpx.HTTPError:
            return False

    def _scale(self) -> None:
        self.stack.up("--scale", "quantiser=3", "--no-recreate", "quantiser")
        names = [each["Name"] for each in self.stack.containers("quantiser")]
        if len(names) != 3:
            raise RuntimeError(f"quantiser has {len(names)} containers, not 3: {names}")
        report(", ".join(sorted(names)))

    def _roll_back(self, users: Users) -> None:
        fault = ("--fault", "delay_ms=4000", "--share", "0.9", "--for", "120s")
        began = time.monotonic()
        self.stack.slipway("drill", MODEL, *fault, "--reason", "demo")
        wait_for(lambda: self._rollbacks("production"), ROLLED_BACK_S, "rollback")
        wait_for(lambda: users.last == f"{MODEL}@v1", 60, "answer of version 1", lambda: f"the last was {users.last}")
        (data,) = self._rollbacks("production")
        if (data["verdict"], data["mode"], data["to"]["version"]) != ("pass", "automatic", 1):
            raise RuntimeError(f"the rollback is not an automatic one to version 1: {data}")
        answers_s, parts = time.monotonic() - began, rollback_durations(data["timeline"])
        report(f"version 1 answers {answers_s:.1f} s after the drill began; {parts}")
        switched = sorted(_switch_s(each["timeline"]) for each in (data, *self._rollbacks("staging")))
        report(f"from alert to new route, rehearsals included: {', '.join(f'{seconds:.3f}' for seconds in switched)} s")

    def _rollbacks(self, environment: str) -> list[dict[str, Any]]:
        """Return the completed rollbacks of production, or those of staging, which are rehearsals."""
        lines = self.stack.slipway("events", MODEL, "--type", "rollback.completed", "--json").splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [event["data"] for event in events if event["environment"] == environment]

    def _replace(self, services: tuple[str, ...]) -> None:
        """Start services again from a newer image, and return when they are healthy."""
        for service in services:
            make_newer(service, self.stack.folder)
        self.stack.up("--no-deps", *services, SLIPWAY_VERSION=NEWER)
        for service in services:
            images = {each["ImageName"] for each in self.stack.containers(service)}
            if images != {image_of(service, NEWER)}:
                raise RuntimeError(f"{service} runs {images}, not {image_of(service, NEWER)}")

    def _replace_gateway(self) -> None:
        with Users(self.stack.url, self._headers, MODEL) as users:
            time.sleep(2)
            before = _total(users)
            self._replace(("gateway",))
            wait_for(self._answers, 60, "answer of the newer gateway")
            began = sum(users.answered.values())
            wait_for(lambda: sum(users.answered.values()) > began + 10, 60, "answers")
        refused = [error for error in users.failed if not error.startswith("HTTPStatusError")]
        if len(refused) != len(users.failed):
            raise RuntimeError(f"requests were answered with errors: {sorted({*users.failed} - {*refused})[:3]}")
        report(f"{len(refused)} of {_total(users) - before} requests found no gateway; none was answered with an error")

    def _hang(self, service: str) -> None:
        (container,) = self.stack.containers(service)
        started = container["State"]["StartedAt"]
        self.stack.hang(service)
        began = time.monotonic()
        self.stack.await_ready(lambda: self.stack.containers(service)[0]["State"]["StartedAt"] != started)
        report(f"{service} is healthy again {time.monotonic() - began:.1f} s after it stopped answering")


def image_of(service: str, version: str) -> str:
    """Return the name of a service's image."""
    return f"localhost/slipway-{service}:{version}"


def make_newer(service: str, folder: Path) -> None:
    """Build an image of a service that differs in its version only."""
    file = folder / "Newer.Dockerfile"
    file.write_text(f"FROM {image_of(service, VERSION)}\nLABEL org.opencontainers.image.version={NEWER}\n")
    engine.podman(
        "build", "--format", "docker", "--pull=never", "--quiet", "--file", str(file), "--tag",
        image_of(service, NEWER), str(folder / "models"),
    )  # fmt: skip


def remove_newer() -> None:
    """Remove the images that `make_newer` built."""
    for service in (*REPLACED, "gateway"):
        engine.podman("rmi", "--force", "--ignore", image_of(service, NEWER), check=False)


def make_models(folder: Path, adapters: Sequence[str] = ("one", "two"), hidden: int = HIDDEN, copies: int = 1) -> None:
    """Make a tiny base model, LoRAs on it by these names, and a policy that asks for copies of an active version."""
    from transformers.utils import logging

    from testbed.models import tiny_base, tiny_lora

    logging.disable_progress_bar()
    base = tiny_base(folder / "tiny-llama", hidden=hidden)
    for seed, name in enumerate(adapters, 1):
        tiny_lora(base, folder / name, seed=seed)
    (folder / "policy.json").write_text(json.dumps(RELEASE_POLICY | {"copies": copies}))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _total(users: Users) -> int:
    return sum(users.answered.values()) + len(users.failed)


def rollback_durations(timeline: dict[str, str]) -> str:
    """Return the seconds between the times of a rollback, in words."""
    names = ("first_bad_at", "detected_at", "decided_at", "switched_at", "verified_at")
    times = [(name.removesuffix("_at"), datetime.fromisoformat(timeline[name])) for name in names if timeline.get(name)]
    return ", ".join(
        f"{later} {(end - start).total_seconds():.2f} s after {name}"
        for (name, start), (later, end) in itertools.pairwise(times)
    )


def _switch_s(timeline: dict[str, str]) -> float:
    """Return the seconds from an alert to the route that names the previous version."""
    start, end = (datetime.fromisoformat(timeline[name]) for name in ("detected_at", "switched_at"))
    return (end - start).total_seconds()
