"""The whole life of a release, rollback included: every step is a command that you can type yourself.

    python -m examples.smollm2.demo [--state FOLDER] [--keep]

Fails only when a step did not happen.
"""

import argparse
import io
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from deploy.local.plan import PATIENT_THREADS
from deploy.local.state import StateFolder, shorten
from examples.smollm2.machine import QUIET, Machine, this_machine
from examples.smollm2.structured import is_answered_by_schema
from examples.smollm2.tool_question import is_answered_by_tool
from shared.runtime.exits import describe_exit

HERE = Path(__file__).parent
SLIPWAY = str(Path(sys.executable).parent / "slipway")
MODEL = "support-bot"
QUESTION = "What does the for statement do in Python?"
RPS, LIMIT_MS = 2.0, 2500
"""Requests per second and the limit of the trigger `slow`, as policy.yaml has them: for two quiet cores with bfloat16,
where an engine begins its answers far sooner. The demo writes those of its machine."""
LEAST_CORES = 0.5
"""Cores that other work must leave of two; with fewer it takes most of an hour."""
DRILL_S = 300
SHORTER = {
    "QUANTISER_HELD_OUT_WINDOWS": "4",
    "MONITOR_ASSESS_EVERY_S": "3",
    # deadlines only, for a slow machine
    "ROLLBACK_CONTROLLER_PROBE_S": "30",
    "ROLLBACK_CONTROLLER_VERIFY_S": "90",
    "ROLLBACK_CONTROLLER_REHEARSAL_HEALTHY_S": "180",
    "ROLLBACK_CONTROLLER_REHEARSAL_DETECT_S": "240",
}
"""Settings of the demo's own stack. 2,048 tokens measure its small model well enough, and save minutes."""
FLOAT32 = {"SERVER_MANAGER_ENGINE_ARGS": json.dumps({"dtype": "float32"})}
"""Where bfloat16 is emulated, a prompt is computed three times as fast so."""
KEPT = frozenset({"SLIPWAY_ENGINE_ENV", "SLIPWAY_LOG_LEVEL"})
"""Variables of Slipway that the demo passes on: they do not say where a stack is."""

TIMELINE = (
    ("first_bad_at", "first bad request"),
    ("detected_at", "detected"),
    ("decided_at", "decided"),
    ("switched_at", "switched"),
    ("verified_at", "verified on live traffic"),
)


@dataclass
class Demo:
    """The state folder of the demo's stack, and the steps that were taken, with their durations.

    Attributes:
        title: The step under way.
        machine: What was measured of this machine.
    """

    state: Path
    steps: list[tuple[str, float]] = field(default_factory=list)
    title: str = ""
    machine: Machine = QUIET

    @property
    def shown(self) -> str:
        """The state folder as people type it."""
        return shorten(self.state)

    @property
    def key_file(self) -> Path:
        """The file with the demo's own key for the gateway."""
        return self.state / "demo.key"

    @property
    def key(self) -> str:
        """The demo's own key for the gateway."""
        return self.key_file.read_text().strip()

    @property
    def policy_file(self) -> Path:
        """The file with the policy that the demo publishes with: policy.yaml with this machine's limit."""
        return self.state / "policy.yaml"

    @property
    def limit_ms(self) -> int:
        """The limit of the trigger `slow`, which follows from the machine."""
        return max(LIMIT_MS, 100 * math.ceil(LIMIT_MS * self.machine.slowness / 100))

    @property
    def rate(self) -> str:
        """The requests per second of its traffic and its benchmarks, which this machine can answer."""
        return f"{min(RPS, RPS / self.machine.slowness):.2g}"

    @property
    def delay_ms(self) -> int:
        """The delay of the drill, clearly above the limit."""
        return 2 * self.limit_ms + 1000

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        number = len(self.steps) + 1
        print(f"\n\033[1m── {number}. {title}\033[0m" if sys.stdout.isatty() else f"\n-- {number}. {title}", flush=True)
        self.title = f"step {number}, {title}"
        started = monotonic()
        yield
        self.title = ""
        self.steps.append((title, monotonic() - started))

    def slipway(self, *arguments: str, show: bool = True) -> None:
        """Run a command and show its output; stop the demo if it fails."""
        if show:
            print(f"$ slipway {' '.join(arguments)}", flush=True)
        done = subprocess.run([SLIPWAY, *arguments], env=self.environment(), check=False)
        if done.returncode:
            sys.exit(f"The demo stopped: `slipway {arguments[0]}` ended with {describe_exit(done.returncode)}.")

    def follow(self) -> None:
        """Show the progress of the newest release until it is promoted; stop the demo if it is not."""
        arguments = ("status", MODEL, "--follow", "--until", "finished", "--timeout", "3600")
        print(f"$ slipway {' '.join(arguments)}", flush=True)
        done = subprocess.run([SLIPWAY, *arguments], env=self.environment(), check=False)
        if done.returncode:
            ends = events_of(self, "release.finished")
            if not ends:
                sys.exit(f"The demo stopped: `slipway status` ended with {describe_exit(done.returncode)}.")
            end = ends[-1]
            name, outcome, code = f"{MODEL}@v{end['version']}", end["outcome"], end["code"] or "no code"
            sys.exit(f"The demo failed: {name} ended as {outcome} ({code}): {end['reason']}")

    def ask_slipway(self, *arguments: str) -> Any:
        """Return what a command prints with --json."""
        command = [SLIPWAY, *arguments, "--json"]
        done = subprocess.run(command, env=self.environment(), check=True, stdout=subprocess.PIPE)
        return json.loads(done.stdout)

    def environment(self) -> dict[str, str]:
        offline = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
        inherited = {name: value for name, value in os.environ.items() if name not in other_stack(os.environ)}
        engine = {} if self.machine.has_bfloat16 else FLOAT32
        return {**SHORTER, **engine, **inherited, "SLIPWAY_STATE": str(self.state), **offline, **PATIENT_THREADS}


def other_stack(environment: Mapping[str, str]) -> list[str]:
    """List the variables that would point the demo's commands to another stack; the demo goes without them."""
    return sorted(name for name in environment if name.startswith("SLIPWAY_") and name not in KEPT)


def write_policy(demo: Demo) -> None:
    """Write the policy with the limit and the rate that follow from this machine."""
    policy = (HERE / "policy.yaml").read_text()
    for written, its_own in (
        (f"threshold: {LIMIT_MS}", f"threshold: {demo.limit_ms}"),
        (f"rate_rps: {RPS}", f"rate_rps: {demo.rate}"),
    ):
        assert policy.count(written) == 1
        policy = policy.replace(written, its_own)
    demo.policy_file.write_text(policy)
    limit = f"the limit of the trigger `slow` is {demo.limit_ms / 1000:g} s, at {demo.rate} requests a second"
    print(f"  this machine has {demo.machine}; {limit} ({shorten(demo.policy_file)})")


TOO_SLOW = (
    f"The demo takes {LEAST_CORES:g} of two cores, and with few of them long: end other work on the machine, or give "
    "it more cores, and run `make demo` again. Without a model that computes, five commands show a release, a canary "
    "and a rollback: docs/get-started.md, from `slipway up --detach --engine toy` on."
)


def write_base(demo: Demo) -> None:
    """Write the base model as a folder, to import and to train on."""
    run_module(demo, "base", [f"{demo.shown}/base"])


def run_module(demo: Demo, name: str, arguments: list[str]) -> None:
    """Run a module of this example; stop the demo if it fails."""
    module = f"examples.smollm2.{name}"
    print(f"$ python -m {module} {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", module, *arguments], env=demo.environment(), check=False)
    if done.returncode:
        sys.exit(f"The demo stopped: {module} ended with {describe_exit(done.returncode)}.")


def train(demo: Demo, name: str, *, seed: int, steps: int, variant: str) -> None:
    """Run the training script, which publishes its checkpoint when it ends, as a training system would."""
    arguments = [
        "--base",
        f"{demo.shown}/base",
        "--out",
        f"{demo.shown}/runs/{name}",
        "--seed",
        str(seed),
        "--steps",
        str(steps),
        "--publish",
        MODEL,
        "--policy",
        shorten(demo.policy_file),
        "--variant",
        variant,
    ]
    run_module(demo, "train", arguments)


@contextmanager
def live_traffic(demo: Demo, after: str) -> Iterator[Path]:
    """Send live traffic in the background once a version takes its first request; yield the report's file."""
    report = demo.state / "traffic.json"
    arguments = ["traffic", MODEL, "--rate", demo.rate, "--after", after, "--json"]
    print(f"$ slipway {' '.join(arguments)} > {shorten(report)} &", flush=True)
    with report.open("w") as written:
        process = subprocess.Popen([SLIPWAY, *arguments], env=demo.environment(), stdout=written)
        try:
            yield report
        finally:
            process.terminate()
            process.wait(150)


def gateway_url(demo: Demo) -> str:
    parts = demo.ask_slipway("ps")["parts"]
    return next(f"http://127.0.0.1:{part['port']}" for part in parts if part["name"] == "gateway")


def await_rollback(demo: Demo) -> None:
    """Wait until traffic has moved to version 1 and the rollback is verified; no command is given for it."""
    started = monotonic()
    while not (done := events_of(demo, "rollback.completed")):
        if monotonic() - started > DRILL_S:
            sys.exit(f"The demo failed: version 2 was slowed down, and traffic had not moved after {DRILL_S} s.")
        sleep(1.0)
    timeline = {name: datetime.fromisoformat(at) for name, at in done[-1]["timeline"].items() if at}
    first = timeline["first_bad_at"]
    for name, title in TIMELINE:
        at = timeline.get(name)
        print(f"  {title:<28}" + (f"{at:%H:%M:%S.%f}"[:-3] + f"  +{(at - first).total_seconds():.2f} s" if at else "-"))
    print(f"  {done[-1]['verdict']}: {done[-1]['reason']}")


def events_of(demo: Demo, name: str) -> list[dict[str, Any]]:
    """Return the data of the production events of one name about the model, oldest first."""
    command = [SLIPWAY, "events", MODEL, "--json"]
    done = subprocess.run(command, env=demo.environment(), check=True, stdout=subprocess.PIPE, text=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    expected = (f"slipway.{name}.v1", "production")
    return [event["data"] for event in events if (event["type"], event["environment"]) == expected]


def run_steps(demo: Demo) -> None:
    with demo.step("check this machine: the limit of the trigger `slow` follows from it"):
        write_policy(demo)
        demo.slipway("doctor")
    with demo.step("start the stack: NATS, an S3 store, Triton with vLLM, and every service"):
        demo.slipway("up", "--detach")
    with demo.step("issue a key for the gateway, for this model only"):
        demo.slipway("keys", "issue", "demo", "--model", MODEL, "--output", shorten(demo.key_file))
    with demo.step("import the base model (SmolLM2-135M-Instruct)"):
        write_base(demo)
        demo.slipway("base", "import", f"{demo.shown}/base", "--name", "smollm2-135m-instruct")
    with demo.step("train a LoRA, run 1; the training run publishes its checkpoint"):
        train(demo, "run-1", seed=1, steps=12, variant="bf16")
    with demo.step("follow release 1 to production: rollback to the base model is rehearsed first"):
        demo.follow()
    with demo.step("ask version 1 over the OpenAI API"):
        demo.slipway("ask", MODEL, QUESTION)
    with demo.step("ask version 1 for JSON by a schema, through openai-python"):
        by_schema = is_answered_by_schema(gateway_url(demo), demo.key, MODEL)
    with demo.step("ask version 1 about an order: it calls a tool, through openai-python"):
        by_tool = is_answered_by_tool(gateway_url(demo), demo.key, MODEL)
    with demo.step("train a LoRA, run 2; the training run publishes its checkpoint, to be quantised"):
        train(demo, "run-2", seed=2, steps=6, variant="int8")
    with live_traffic(demo, after=f"{MODEL}@v2") as report:
        with demo.step("follow release 2 to production: rehearsal, then a canary under live traffic"):
            demo.follow()
        with demo.step("ask version 2, and see where it came from"):
            demo.slipway("ask", MODEL, QUESTION)
            demo.slipway("show", f"{MODEL}@v2")
        with demo.step("a drill slows version 2 down; traffic moves to version 1 without a command"):
            fault = ("--fault", f"delay_ms={demo.delay_ms}", "--share", "0.8", "--for", f"{DRILL_S}s")
            demo.slipway("drill", MODEL, *fault, "--reason", "the demo")
            await_rollback(demo)
        with demo.step("see what was detected, and what serves now"):
            demo.slipway("alerts", MODEL, "--all")
            demo.slipway("routes")
    check(demo, json.loads(report.read_text()), by_schema=by_schema, by_tool=by_tool)


def check(demo: Demo, traffic: dict[str, Any], *, by_schema: bool, by_tool: bool) -> None:
    """Verify each part of what was shown; stop with an error if one did not happen."""
    (route,) = [route for route in demo.ask_slipway("routes") if route["model"] == MODEL]
    certificates = [
        rehearsal["certificates"]
        for rehearsal in events_of(demo, "rehearsal.completed")
        if rehearsal["verdict"] == "pass"
    ]
    canaries = [
        canary["target"]["version"] for canary in events_of(demo, "canary.assessed") if canary["verdict"] == "pass"
    ]
    alerts = [alert for alert in events_of(demo, "alert.raised") if alert["target"]["version"] == 2 and alert["drill"]]
    (back,) = events_of(demo, "rollback.completed")
    moved = (back["mode"], back["failed"]["version"], back["to"]["version"])
    happened = {
        "both releases rehearsed each of their triggers": [len(proved) for proved in certificates] == [2, 2],
        "the answer to a JSON schema was valid": by_schema,
        "the tool was called with valid arguments": by_tool,
        "version 2 passed its canary": canaries == [2],
        "the drill raised an alert": bool(alerts),
        "traffic moved without an operator": moved == ("automatic", 2, 1),
        "version 1 serves": route["active"]["target"]["version"] == 1,
        "version 2 is suspended": [held["served"]["target"]["version"] for held in route["suspended"]] == [2],
        "no request was lost": not traffic["failures"],
        "both versions answered": len(traffic["answered"]) == 2,
    }
    print()
    for what, is_so in happened.items():
        print(f"  {'yes' if is_so else 'NO':<5}{what}")
    if not all(happened.values()):
        sys.exit("The demo failed; see above for what did not happen.")


def summarise(demo: Demo, total_s: float, keep: bool) -> None:
    print("\nseconds  what happened")
    for title, seconds in demo.steps:
        print(f"{seconds:>7.1f}  {title}")
    print(f"{total_s:>7.1f}  in all")
    url = gateway_url(demo)
    print(f"""
Version 1 serves production again; version 2 is suspended until an operator decides:
  slipway rollback confirm {MODEL} --reason "…"   quarantines it
  slipway rollback return {MODEL} --reason "…"    returns it as a canary
Where to look next (SLIPWAY_STATE={demo.shown}):
  slipway status · slipway events · slipway show {MODEL}@v2 · slipway alerts --all · slipway ps
  curl {url}/v1/chat/completions -H "authorization: Bearer $(cat {shorten(demo.key_file)})" \\
    -H 'content-type: application/json' \\
    -d '{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
  {demo.shown}/logs has one log per part.""")
    if keep:
        print(f"The stack stays up; stop it with: slipway down --state {demo.shown}")


def where_to_look(state: Path, *, up: bool) -> str:
    """Return what a person can do after the demo has failed: only commands that work then, and files that are there."""
    logs = f"  {shorten(state)}/logs has one log per part"
    if not up:
        return f"""The demo's stack is stopped, so commands that ask it do not answer. What is left of it:
{logs}.
If the machine was busy, end other work and run it again: it measures anew. To look at the stack after a failure:
  python -m examples.smollm2.demo --keep"""
    about = f"--state {shorten(state)}"
    return f"""The demo's stack stays up. Where to look:
  slipway ps {about}
  slipway status {about}
  slipway deadletters list {about}
{logs}.
Stop it with: slipway down {about}"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the whole life of a release on the embedded stack.")
    parser.add_argument("--state", type=Path, default=Path(".state/demo"), help="folder of the demo's own stack")
    parser.add_argument("--keep", action="store_true", help="leave the stack running at the end")
    options = parser.parse_args()
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)  # the commands below write to the same place
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends like an interrupt: the stack is stopped
    started = monotonic()
    demo = Demo(options.state.resolve(), machine=this_machine())
    if demo.machine.free_cores < LEAST_CORES:
        sys.exit(f"The demo did not start: this machine has {demo.machine}. {TOO_SLOW}")
    if ignored := other_stack(os.environ):
        print(f"The demo starts a stack of its own in {demo.shown}, and ignores {', '.join(ignored)}.", flush=True)
    subprocess.run(
        [SLIPWAY, "down", "--state", str(demo.state)], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    shutil.rmtree(demo.state, ignore_errors=True)
    demo.state.mkdir(parents=True)
    failure = finish(demo, options.keep, started)
    if failure is not None:
        sys.exit(1)


def finish(demo: Demo, keep: bool, started: float) -> str | None:
    """Run the steps, sum up, stop the stack unless it is to stay; return what went wrong, or None.

    The stack stays if that was asked for, and on a terminal, whether the demo succeeded or not: an interrupt stops it.
    """
    failure = None
    keep = keep or sys.stdout.isatty()
    try:
        run_steps(demo)
        summarise(demo, monotonic() - started, keep)
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
        where = f"It was in {demo.title}. " if demo.title else ""
        print(f"{where}At its start this machine had {demo.machine}.", file=sys.stderr)
    keep = keep and StateFolder(demo.state).is_held()
    if not keep:
        subprocess.run([SLIPWAY, "down"], env=demo.environment(), check=False)
    if failure is not None:
        print(where_to_look(demo.state, up=keep), file=sys.stderr)
    return failure


if __name__ == "__main__":
    main()
