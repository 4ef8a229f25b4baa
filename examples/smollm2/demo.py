"""The whole road, as a person would walk it: every step is a command that you can type yourself.

    python -m examples.smollm2.demo [--state FOLDER] [--keep]

Fails only when a step did not happen.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

HERE = Path(__file__).parent
SLIPWAY = str(Path(sys.executable).parent / "slipway")
MODEL = "support-bot"
QUESTION = "What does the for statement do in Python?"


@dataclass
class Road:
    """The steps taken so far, and how long each took."""

    state: Path
    steps: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        number = len(self.steps) + 1
        print(f"\n\033[1m── {number}. {title}\033[0m" if sys.stdout.isatty() else f"\n-- {number}. {title}", flush=True)
        started = monotonic()
        yield
        self.steps.append((title, monotonic() - started))

    def slipway(self, *arguments: str, show: bool = True) -> None:
        """Run the command as a person would, output and all; stop the demo when it fails."""
        if show:
            print(f"$ slipway {' '.join(arguments)}", flush=True)
        done = subprocess.run([SLIPWAY, *arguments], env=self.environment(), check=False)
        if done.returncode:
            sys.exit(
                f"\nThe demo stopped: `slipway {arguments[0]}` ended with {done.returncode}. "
                f"Its logs are in {self.state}/logs; `slipway deadletters list` shows what failed for good."
            )

    def ask_slipway(self, *arguments: str) -> Any:
        """Run a command with --json and give what it says."""
        command = [SLIPWAY, *arguments, "--json"]
        done = subprocess.run(command, env=self.environment(), check=True, stdout=subprocess.PIPE)
        return json.loads(done.stdout)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLIPWAY_STATE": str(self.state), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}


def train(road: Road, base: Path, name: str, seed: int, steps: int) -> None:
    """Run the training script as a training system would: it publishes its checkpoint itself when it is done."""
    arguments = [
        "--base", str(base), "--out", str(road.state / "runs" / name), "--seed", str(seed), "--steps", str(steps),
        "--publish", MODEL, "--policy", str(HERE / "policy.yaml"),
    ]  # fmt: skip
    print(f"$ python -m examples.smollm2.train {' '.join(arguments)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "examples.smollm2.train", *arguments], env=road.environment(), check=False
    )
    if done.returncode:
        sys.exit(f"The demo stopped: training ended with {done.returncode}.")


def walk(road: Road) -> None:
    base = road.state / "base"
    with road.step("start the stack: NATS, an S3 store, Triton with vLLM, and every service"):
        road.slipway("up", "--detach")
    with road.step("import the base model (SmolLM2-135M-Instruct)"):
        road.slipway("base", "import", "--from-smollm2", "--keep-folder", str(base))
    for number, (seed, steps) in enumerate([(1, 20), (2, 24)], start=1):
        with road.step(f"train a LoRA, run {number}; the training run publishes its checkpoint"):
            train(road, base, f"run-{number}", seed, steps)
        with road.step(f"follow release {number} to production"):
            road.slipway("status", MODEL, "--follow", "--until", "finished", "--timeout", "1200")
        with road.step(f"ask version {number} over the OpenAI API"):
            road.slipway("ask", MODEL, QUESTION)
    with road.step("see what serves, and where it came from"):
        road.slipway("routes")
        road.slipway("versions", MODEL)
        road.slipway("show", f"{MODEL}@v2")
    check(road)


def check(road: Road) -> None:
    """Make sure that what was shown is so: v2 serves, v1 is loaded behind it."""
    (route,) = [one for one in road.ask_slipway("routes") if one["model"] == MODEL]
    active, previous = route["active"]["target"]["version"], route["previous"]["target"]["version"]
    if (active, previous) != (2, 1):
        sys.exit(f"The demo failed: version {active} serves with {previous} behind it; 2 and 1 were expected.")


def summarise(road: Road, total_s: float, keep: bool) -> None:
    print("\nWhat happened" + " " * 60 + "seconds")
    for title, seconds in road.steps:
        print(f"  {title[:70]:<71}{seconds:>6.1f}")
    print(f"  {'in all':<71}{total_s:>6.1f}")
    gateway = road.ask_slipway("ps")
    url = next((f"http://127.0.0.1:{part['port']}" for part in gateway["parts"] if part["name"] == "gateway"), "")
    print(f"""
Version 2 serves production; version 1 stays loaded behind it.
Where to look next (SLIPWAY_STATE={road.state}):
  slipway status · slipway events · slipway trace {MODEL}@v2 · slipway ps
  curl {url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
  {road.state}/logs has one log per part.""")
    if keep:
        print(f"The stack stays up; stop it with: slipway down --state {road.state}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Walk the whole road on the embedded stack.")
    parser.add_argument("--state", type=Path, default=Path(".state/demo"), help="folder of the demo's own stack")
    parser.add_argument("--keep", action="store_true", help="leave the stack running at the end")
    options = parser.parse_args()
    road = Road(options.state.resolve())
    started = monotonic()
    subprocess.run([SLIPWAY, "down", "--state", str(road.state)], check=False, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)  # fmt: skip
    shutil.rmtree(road.state, ignore_errors=True)
    road.state.mkdir(parents=True)
    keep = options.keep
    try:
        walk(road)
        keep = keep or sys.stdout.isatty()
        summarise(road, monotonic() - started, keep)
    except KeyboardInterrupt:
        keep = False
        sys.exit("\nStopped; the demo's stack is being shut down.")
    except SystemExit:
        keep = False
        raise
    finally:
        if not keep:
            road.slipway("down", show=False)


if __name__ == "__main__":
    main()
