"""A release into servers that exist: attach, release by the hook, shadow, canary, promotion, slowness, rollback.

    python -m examples.attached.demo [--adapters] [--state FOLDER]

Two toy servers of the OpenAI API stand for two groups of vLLM; every other part is the real one. It takes no model and
no accelerator. With `--adapters` both have the base model, and server-manager loads each version into one as a LoRA.
Fails only when a step did not happen; everything that it started is stopped at the end.
"""

import argparse
import contextlib
import io
import json
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from deploy.local.state import shorten
from examples.smollm2.demo import MODEL, SLIPWAY, Demo, await_rollback, events_of
from shared.runtime.exits import describe_exit
from testbed.openai_server import OpenAiServer
from testbed.servers import running

HERE = Path(__file__).parent
RPS = 10
SLOW_MS = "4000"
"""Milliseconds before each token of the slow server; the policy allows 2,500 before the first."""


@contextlib.contextmanager
def beside(demo: Demo, *command: str, output: Path) -> Iterator[None]:
    """Run a command in the background, with its output in a file, and end it; stop the demo if it ended before."""
    print(f"$ {shlex.join(command)} > {shorten(output)} &", flush=True)
    environment = demo.environment()
    environment["PATH"] = f"{Path(SLIPWAY).parent}:{environment['PATH']}"
    with output.open("w") as written:
        process = subprocess.Popen(command, env=environment, stdout=written, start_new_session=True)
        try:
            yield
            if (code := process.poll()) is not None:
                sys.exit(f"The demo stopped: `{command[0]}` ended with {describe_exit(code)}; see {output}.")
        finally:
            process.terminate()
            process.wait(60)


def release(demo: Demo, adapter: str) -> None:
    """Publish a LoRA, and follow its release to production."""
    sample = Path(demo.shown) / "sample"
    demo.slipway(
        *("publish", "--model", MODEL, "--base", "sample-base", "--adapter", f"{sample / adapter}"),
        *("--variant", "bf16", "--data", f"{sample / 'train.jsonl'}", "--policy", f"{demo.shown}/policy.yaml"),
    )
    demo.follow()


def route_of(demo: Demo) -> Any:
    return next(route for route in demo.ask_slipway("routes") if route["model"] == MODEL)


def run_steps(demo: Demo, blue: OpenAiServer, green: OpenAiServer, *, adapters: bool) -> None:
    base: dict[str, dict[str, str]] = {f"{MODEL}.v0.bf16": {}}
    loaded = demo.state / "adapters"
    demo.policy_file.write_text((HERE / "policy.yaml").read_text() + ("serve: adapter\n" if adapters else ""))
    with demo.step("start the stack; its own fleet stays empty"):
        demo.slipway("up", "--engine", "toy", "--detach")
    with demo.step("attach two groups of servers; what serves what was there before gets the name of version 0"):
        loaded.mkdir()
        demo.slipway(
            *("attach", MODEL, "--group", "blue", "--url", blue.url, *(["--adapters", f"{loaded}"] if adapters else []))
        )
        demo.slipway("attach", MODEL, "--group", "green", "--url", green.url)
        for server in (blue, green) if adapters else (blue,):
            server.serve(base)
    with demo.step("make two LoRAs with random weights, and their base model"):
        demo.slipway("sample-lora", f"{demo.shown}/sample")
    hook = ("python", shorten(HERE / "hook.py"), MODEL, "--first", "green", "--folder", f"{demo.shown}/models")
    deploy = ("--", "python", shorten(HERE / "deploy_toy.py"))
    report = demo.state / "traffic.json"
    traffic = ("slipway", "traffic", MODEL, "--rate", f"{RPS}", "--max-tokens", "2", "--json")
    by = "server-manager loads it into" if adapters else "the hook deploys it into"
    ours, theirs = (blue, green) if adapters else (green, blue)
    with contextlib.nullcontext() if adapters else beside(demo, *hook, *deploy, output=demo.state / "hook.log"):
        with demo.step(f"release 1: {by} the group {ours.name}; rollback to version 0 is rehearsed"):
            release(demo, "lora-1")
            first = route_of(demo)["active"]
        with beside(demo, *traffic, output=report):
            with demo.step(f"release 2: {by} the group {theirs.name}; shadow, then a canary under live traffic"):
                release(demo, "lora-2")
                second = route_of(demo)["active"]
            with demo.step("the servers of version 2 become slow; traffic moves to version 1 without a command"):
                served = base if adapters else {f"{MODEL}.v2.bf16": {}}
                theirs.serve({name: {"token_delay_ms": SLOW_MS} for name in served})
                await_rollback(demo)
    with demo.step("see what was detected, and what serves now"):
        demo.slipway("alerts", MODEL, "--all")
        demo.slipway("endpoints")
    by_version = {"first": first["endpoints"], "second": second["endpoints"]}
    check(demo, json.loads(report.read_text()), by_version == {"first": [ours.url], "second": [theirs.url]})


def check(demo: Demo, traffic: dict[str, Any], took_turns: bool) -> None:
    """Verify each part of what was shown; stop with an error if one did not happen."""
    route, (back,) = route_of(demo), events_of(demo, "rollback.completed")
    rehearsals = [each["verdict"] for each in events_of(demo, "rehearsal.completed")]
    assessed = {
        kind: [each["verdict"] for each in events_of(demo, f"{kind}.assessed")][-1:] for kind in ("shadow", "canary")
    }
    happened = {
        "the groups took turns: each version on one": took_turns,
        "both releases rehearsed their rollback": rehearsals == ["pass", "pass"],
        "version 2 passed its shadow and its canary": assessed == {"shadow": ["pass"], "canary": ["pass"]},
        "the slow servers raised an alert": any(
            alert["target"]["version"] == 2 for alert in events_of(demo, "alert.raised") if alert["trigger"] == "slow"
        ),
        "traffic moved without an operator": (back["mode"], back["to"]["version"]) == ("automatic", 1),
        "version 1 serves, and version 2 is suspended": (
            route["active"]["target"]["version"] == 1
            and [held["served"]["target"]["version"] for held in route["suspended"]] == [2]
        ),
        f"no request of {traffic['sent']} was lost, and both versions answered": (
            not traffic["failures"] and set(traffic["answered"]) == {f"{MODEL}@v1", f"{MODEL}@v2"}
        ),
    }
    print()
    for what, is_so in happened.items():
        print(f"  {'yes' if is_so else 'NO':<5}{what}")
    if not all(happened.values()):
        sys.exit(f"The demo failed; see above for what did not happen. Requests that failed: {traffic['failures']}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Release into attached servers on the embedded stack.")
    parser.add_argument("--state", type=Path, default=Path(".state/demo-attached"), help="folder of its own stack")
    parser.add_argument("--adapters", action="store_true", help="load versions as adapters of one base model")
    arguments = parser.parse_args()
    demo = Demo(arguments.state.resolve())
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)  # the commands below write to the same place
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends like an interrupt
    stop = [SLIPWAY, "down", "--state", str(demo.state)]
    subprocess.run(stop, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shutil.rmtree(demo.state, ignore_errors=True)
    demo.state.mkdir(parents=True)
    started, failure = monotonic(), ""
    try:
        with running(OpenAiServer(demo.state, "blue")) as blue, running(OpenAiServer(demo.state, "green")) as green:
            run_steps(demo, blue, green, adapters=arguments.adapters)
    except KeyboardInterrupt:
        failure = "Stopped."
    except SystemExit as error:
        failure = str(error.code)
    except subprocess.CalledProcessError as error:
        failure = f"The demo stopped: `{shlex.join(error.cmd)}` ended with {describe_exit(error.returncode)}."
    finally:
        print(f"\nThe servers are stopped; the stack is being stopped. What is left is in {demo.shown}, the logs too.")
        subprocess.run(stop, check=False)
    for title, seconds in demo.steps:
        print(f"{seconds:>7.1f}  {title}")
    print(f"{monotonic() - started:>7.1f}  in all")
    if failure:
        sys.exit(f"\n{failure}" + (f"\nIt was in {demo.title}." if demo.title else ""))


if __name__ == "__main__":
    main()
