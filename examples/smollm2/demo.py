"""The whole road, forward and back, as a person would walk it: every step is a command that you can type yourself.

    python -m examples.smollm2.demo [--state FOLDER] [--keep]

Fails only when a step did not happen.
"""

import argparse
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from deploy.local.plan import PATIENT_THREADS
from deploy.local.state import StateFolder
from shared.runtime.exits import describe_exit

HERE = Path(__file__).parent
SLIPWAY = str(Path(sys.executable).parent / "slipway")
MODEL = "support-bot"
QUESTION = "What does the for statement do in Python?"
DRILL = ("--fault", "delay_ms=6000", "--share", "0.8", "--for", "180s")
BACK_WITHIN_S = 180.0


TIMELINE = (
    ("first_bad_at", "first bad request"),
    ("detected_at", "detected"),
    ("decided_at", "decided"),
    ("switched_at", "switched"),
    ("verified_at", "verified on live traffic"),
)


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
            sys.exit(f"The demo stopped: `slipway {arguments[0]}` ended with {describe_exit(done.returncode)}.")

    def ask_slipway(self, *arguments: str) -> Any:
        """Run a command with --json and give what it says."""
        command = [SLIPWAY, *arguments, "--json"]
        done = subprocess.run(command, env=self.environment(), check=True, stdout=subprocess.PIPE)
        return json.loads(done.stdout)

    def environment(self) -> dict[str, str]:
        offline = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
        return {**os.environ, "SLIPWAY_STATE": str(self.state), **offline, **PATIENT_THREADS}


def train(road: Road, base: Path, name: str, seed: int, steps: int) -> None:
    """Run the training script as a training system would: it publishes its checkpoint itself when it is done."""
    arguments = [
        "--base",
        str(base),
        "--out",
        str(road.state / "runs" / name),
        "--seed",
        str(seed),
        "--steps",
        str(steps),
        "--publish",
        MODEL,
        "--policy",
        str(HERE / "policy.yaml"),
    ]
    print(f"$ python -m examples.smollm2.train {' '.join(arguments)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "examples.smollm2.train", *arguments], env=road.environment(), check=False
    )
    if done.returncode:
        sys.exit(f"The demo stopped: training ended with {describe_exit(done.returncode)}.")


@contextmanager
def live_traffic(road: Road, after: str) -> Iterator[Path]:
    """Send live traffic in the background, from the moment when a version takes its first; give the report's file."""
    report = road.state / "traffic.json"
    arguments = [
        "--url",
        gateway_url(road),
        "--model",
        MODEL,
        "--rps",
        "1.5",
        "--after",
        after,
        "--report",
        str(report),
    ]
    print(f"$ python -m examples.smollm2.traffic {' '.join(arguments)} &", flush=True)
    process = subprocess.Popen([sys.executable, "-m", "examples.smollm2.traffic", *arguments], env=road.environment())
    try:
        yield report
    finally:
        process.terminate()
        process.wait(150)


def gateway_url(road: Road) -> str:
    parts = road.ask_slipway("ps")["parts"]
    return next(f"http://127.0.0.1:{part['port']}" for part in parts if part["name"] == "gateway")


def await_way_back(road: Road) -> None:
    """Wait until traffic is back on version 1 and that was verified; nobody does anything for it."""
    started = monotonic()
    while not (done := said(road, "rollback.completed")):
        if monotonic() - started > BACK_WITHIN_S:
            sys.exit(f"The demo failed: version 2 was slowed down, and traffic was not back after {BACK_WITHIN_S:g} s.")
        sleep(1.0)
    timeline = {name: datetime.fromisoformat(at) for name, at in done[-1]["timeline"].items() if at}
    first = timeline["first_bad_at"]
    for name, title in TIMELINE:
        at = timeline.get(name)
        print(f"  {title:<28}" + (f"{at:%H:%M:%S.%f}"[:-3] + f"  +{(at - first).total_seconds():.2f} s" if at else "-"))
    print(f"  {done[-1]['verdict']}: {done[-1]['reason']}")


def said(road: Road, name: str) -> list[dict[str, Any]]:
    """Return what was said by facts of one name about the model, oldest first."""
    command = [SLIPWAY, "events", "--model", MODEL, "--json"]
    done = subprocess.run(command, env=road.environment(), check=True, stdout=subprocess.PIPE, text=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return [one["data"] for one in events if (one["type"], one["environment"]) == (f"slipway.{name}.v1", "production")]


def walk(road: Road) -> None:
    base = road.state / "base"
    with road.step("start the stack: NATS, an S3 store, Triton with vLLM, and every service"):
        road.slipway("up", "--detach")
    with road.step("import the base model (SmolLM2-135M-Instruct)"):
        road.slipway("base", "import", "--from-smollm2", "--keep-folder", str(base))
    with road.step("train a LoRA, run 1; the training run publishes its checkpoint"):
        train(road, base, "run-1", seed=1, steps=12)
    with road.step("follow release 1 to production: its way back is rehearsed with the base model"):
        road.slipway("status", MODEL, "--follow", "--until", "finished", "--timeout", "1200")
    with road.step("ask version 1 over the OpenAI API"):
        road.slipway("ask", MODEL, QUESTION)
    with road.step("train a LoRA, run 2; the training run publishes its checkpoint"):
        train(road, base, "run-2", seed=2, steps=16)
    with live_traffic(road, after=f"{MODEL}@v2") as report:
        with road.step("follow release 2 to production: rehearsal, then a canary under live traffic"):
            road.slipway("status", MODEL, "--follow", "--until", "finished", "--timeout", "1200")
        with road.step("ask version 2, and see where it came from"):
            road.slipway("ask", MODEL, QUESTION)
            road.slipway("show", f"{MODEL}@v2")
        with road.step("a drill slows version 2 down; nobody touches anything until traffic is back on version 1"):
            road.slipway("drill", MODEL, *DRILL, "--reason", "the demo")
            await_way_back(road)
        with road.step("see what was noticed, and what serves now"):
            road.slipway("alerts", MODEL, "--all")
            road.slipway("routes")
            road.slipway("quarantine", "list", MODEL)
    check(road, json.loads(report.read_text()))


def check(road: Road, traffic: dict[str, Any]) -> None:
    """Make sure that what was shown is so, each part by itself."""
    (route,) = [one for one in road.ask_slipway("routes") if one["model"] == MODEL]
    certificates = [one["certificates"] for one in said(road, "rehearsal.completed") if one["verdict"] == "pass"]
    canaries = [one["target"]["version"] for one in said(road, "canary.assessed") if one["verdict"] == "pass"]
    alerts = [one for one in said(road, "alert.raised") if one["target"]["version"] == 2 and one["drill"]]
    (back,) = said(road, "rollback.completed")
    moved = (back["mode"], back["failed"]["version"], back["to"]["version"])
    happened = {
        "both releases were rehearsed, trigger by trigger": [len(one) for one in certificates] == [2, 2],
        "version 2 passed its canary": canaries == [2],
        "the drill raised an alert": bool(alerts),
        "traffic went back by itself": moved == ("automatic", 2, 1),
        "version 1 serves": route["active"]["target"]["version"] == 1,
        "version 2 is quarantined": [one["version"] for one in route["quarantined"]] == [2],
        "no request was lost": traffic["sent"] == sum(traffic["answered"].values()) and not traffic["failed"],
        "both versions answered": len(traffic["answered"]) == 2,
    }
    print()
    for what, is_so in happened.items():
        print(f"  {'yes' if is_so else 'NO'}\t{what}")
    if not all(happened.values()):
        sys.exit("The demo failed; see above for what did not happen.")


def summarise(road: Road, total_s: float, keep: bool) -> None:
    print("\nWhat happened" + " " * 60 + "seconds")
    for title, seconds in road.steps:
        print(f"  {title[:70]:<71}{seconds:>6.1f}")
    print(f"  {'in all':<71}{total_s:>6.1f}")
    url = gateway_url(road)
    print(f"""
Version 1 serves production again; version 2 is quarantined until somebody lifts its quarantine.
Where to look next (SLIPWAY_STATE={road.state}):
  slipway status · slipway events · slipway trace {MODEL}@v2 · slipway alerts --all · slipway ps
  curl {url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
  {road.state}/logs has one log per part.""")
    if keep:
        print(f"The stack stays up; stop it with: slipway down --state {road.state}")


def where_to_look(state: Path, *, up: bool) -> str:
    """Return what a person can do after the demo has failed: only commands that work then, and files that are there."""
    logs = f"  {state}/logs has one log per part"
    if not up:
        return f"The demo's stack is stopped, so commands that ask it do not answer. What is left of it:\n{logs}."
    about = f"--state {state}"
    return f"""The demo's stack stays up. Where to look:
  slipway ps {about}
  slipway status {about}
  slipway deadletters list {about}
{logs}.
Stop it with: slipway down {about}"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Walk the whole road on the embedded stack.")
    parser.add_argument("--state", type=Path, default=Path(".state/demo"), help="folder of the demo's own stack")
    parser.add_argument("--keep", action="store_true", help="leave the stack running at the end")
    options = parser.parse_args()
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)  # the commands below write to the same place
    road = Road(options.state.resolve())
    started = monotonic()
    subprocess.run(
        [SLIPWAY, "down", "--state", str(road.state)], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    shutil.rmtree(road.state, ignore_errors=True)
    road.state.mkdir(parents=True)
    failure = finish(road, options.keep, started)
    if failure is not None:
        sys.exit(1)


def finish(road: Road, keep: bool, started: float) -> str | None:
    """Walk, sum up, stop the stack unless it is to stay; return what went wrong, or None.

    The stack stays if that was asked for, and on a terminal, whether the demo succeeded or not: an interrupt stops it.
    """
    failure = None
    keep = keep or sys.stdout.isatty()
    try:
        walk(road)
        summarise(road, monotonic() - started, keep)
    except KeyboardInterrupt:
        failure, keep = "Stopped; the demo's stack is being shut down.", False
    except SystemExit as error:
        failure = str(error.code)
    except subprocess.CalledProcessError as error:
        failure = f"The demo stopped: `{shlex.join(error.cmd)}` ended with {describe_exit(error.returncode)}."
    except Exception as error:  # noqa: BLE001 - whatever it was, the stack is left as it was promised
        failure = "".join(traceback.format_exception(error))
    if failure is not None:
        print(f"\n{failure.strip()}", file=sys.stderr)
    keep = keep and StateFolder(road.state).is_held()
    if not keep:
        subprocess.run([SLIPWAY, "down"], env=road.environment(), check=False)
    if failure is not None:
        print(where_to_look(road.state, up=keep), file=sys.stderr)
    return failure


if __name__ == "__main__":
    main()
