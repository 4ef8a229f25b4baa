"""Deploys each version that Slipway waits for into the group of attached servers that has no traffic.

    python examples/attached/hook.py support-bot --first green --folder /models -- ./deploy.sh

For each `stage.requested` that is still waited for it fetches the files with `slipway pull` and runs `./deploy.sh GROUP
FOLDER NAME URL…`, once for a version: that is to start servers of the files in FOLDER that answer by NAME at these
addresses. While every group has traffic it waits. It needs only Python and the `slipway` command, and never deploys
into a group that the route of production names. It ends with an error if `slipway` or the script does: start it again.
"""

import argparse
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

QUIET_S = 3.0
"""So long no event has to come before what is waited for is deployed, in seconds: the last hour is read first."""


def ask(*arguments: str) -> Any:
    """Return what a command prints with --json."""
    done = subprocess.run(["slipway", *arguments, "--json"], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def groups_of(endpoints: Collection[Mapping[str, Any]], model: str) -> dict[str, list[Mapping[str, Any]]]:
    """Return the replicas of each group of a model, of what `slipway endpoints` lists."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for endpoint in endpoints:
        owner, slash, group = endpoint["name"].partition("/")
        if slash and owner == model:
            groups.setdefault(group, []).append(endpoint)
    return groups


def targets_in_traffic(routes: Collection[Mapping[str, Any]], model: str) -> list[Mapping[str, Any]]:
    """Return the active version and the canary of a model, of what `slipway routes` lists."""
    route: Mapping[str, Any] = next((route for route in routes if route["model"] == model), {})
    served = (route.get("active"), (route.get("canary") or {}).get("served"))
    return [each for each in served if each]


def choose_group(
    groups: Mapping[str, Collection[Mapping[str, Any]]], in_traffic: Collection[Mapping[str, Any]], first: str
) -> str | None:
    """Return the group for the next version; None while all have traffic. Without a route it is `first`."""
    if not in_traffic:
        return first if first in groups else None
    taken = {address for served in in_traffic for address in served["endpoints"]}
    return next(
        (name for name, replicas in sorted(groups.items()) if taken.isdisjoint(each["endpoint"] for each in replicas)),
        None,
    )


def is_deployed(groups: Mapping[str, Collection[Mapping[str, Any]]], target: Mapping[str, Any]) -> bool:
    """Return whether a replica serves a version already: this was started again, or its rehearsal is asked for."""
    replicas = (each for group in groups.values() for each in group)
    return any(running["target"] == target for each in replicas for running in each["targets"])


def note(waiting: dict[str, Mapping[str, Any]], event: Mapping[str, Any], model: str) -> None:
    """Take over an event: a version is waited for from its order to stage it, until it is staged, or its release ends.

    Args:
        waiting: the targets that are waited for, by name; it is changed.
        event: as `slipway events` prints it.
        model: the model that this deploys; events of others are left out.
    """
    kind, data = event["type"], event["data"]
    if event["subject"] != model or event["environment"] != "production":
        return
    if kind == "slipway.stage.requested.v1":
        target = data["candidate"]["target"]
        waiting.pop(name_of(target), None)  # the newest is the last
        waiting[name_of(target)] = target
    elif kind == "slipway.variant.staged.v1":
        waiting.pop(name_of(data["candidate"]["target"]), None)
    elif kind == "slipway.release.finished.v1":
        for name in [name for name, target in waiting.items() if target["version"] == data["version"]]:
            del waiting[name]


def name_of(target: Mapping[str, Any]) -> str:
    """Return the name that servers of a version answer by."""
    return f"{target['model']}.v{target['version']}.{target['variant']}"


def follow(since: str) -> Iterator[Mapping[str, Any] | None]:
    """Yield events of all models; None after each `QUIET_S` without one. Exit if they cannot be followed any more.

    Not those of one model: `slipway events` refuses one that has none yet.
    """
    types = ("stage.requested", "variant.staged", "release.finished")
    command = ["slipway", "events", "--follow", "--since", since, "--json"]
    lines: queue.Queue[str | None] = queue.Queue()

    def read(output: IO[str]) -> None:
        for line in output:
            lines.put(line)
        lines.put(None)

    wanted = [argument for kind in types for argument in ("--type", kind)]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # which would leave the command behind while it starts
    events = subprocess.Popen([*command, *wanted], stdout=subprocess.PIPE, text=True)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        assert events.stdout is not None
        threading.Thread(target=read, args=(events.stdout,), daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=QUIET_S)
            except queue.Empty:
                yield None
                continue
            if line is None:
                sys.exit(f"`slipway events` ended with code {events.wait()}: start this again.")
            yield json.loads(line)
    finally:
        events.kill()  # it started with SIGTERM blocked
        events.wait()


def deploy(target: Mapping[str, Any], started: dict[str, str], options: argparse.Namespace) -> None:
    """Deploy a version unless a group serves it, or every group has traffic; note its group in `started`."""
    name = name_of(target)
    groups = groups_of(ask("endpoints"), options.model)
    if is_deployed(groups, target):
        return
    group = choose_group(groups, targets_in_traffic(ask("routes"), options.model), options.first)
    if group is None:
        print(f"{name}: every group has traffic, or there is no group {options.first}", file=sys.stderr, flush=True)
        return
    folder = options.folder / name
    print(f"{name} goes to the group {group}", flush=True)
    version = f"{options.model}@v{target['version']}"
    subprocess.run(["slipway", "pull", version, "--variant", target["variant"], str(folder)], check=True)
    urls = [replica["endpoint"] for replica in groups[group]]
    subprocess.run([*options.command, group, str(folder), name, *urls], check=True)
    started[group] = name


def main() -> None:
    parser = argparse.ArgumentParser(description="Deploy each version that Slipway waits for.")
    parser.add_argument("model")
    parser.add_argument("--first", required=True, help="group that gets the first version: the one without traffic")
    parser.add_argument("--folder", type=Path, required=True, help="where the files of versions go")
    parser.add_argument("--since", default="1h", help="orders of so long ago count, too, if they are still waited for")
    parser.add_argument("command", nargs="+", help="run as COMMAND GROUP FOLDER NAME URL…")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what it started ends with it
    waiting: dict[str, Mapping[str, Any]] = {}
    started: dict[str, str] = {}
    for event in follow(options.since):
        if event is not None:
            note(waiting, event, options.model)
            continue
        for name, target in waiting.items():
            if name not in started.values():
                deploy(target, started, options)


if __name__ == "__main__":
    main()
