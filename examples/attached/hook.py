"""Deploys each version that Slipway waits for into the group of attached servers that has no traffic.

    python examples/attached/hook.py support-bot --first green --folder /models -- ./deploy.sh

For each `stage.requested` it fetches the files with `slipway pull` and runs `./deploy.sh GROUP FOLDER NAME URL…`, once
for a version: that is to start servers of the files in FOLDER that answer by NAME at these addresses. It needs only
Python and the `slipway` command, and never deploys into a group that the route of production names.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any


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


def orders(model: str, since: str) -> Iterator[Mapping[str, Any]]:
    """Yield what is to be staged, its model, version and variant, as it is asked for."""
    command = [
        "slipway",
        "events",
        "--follow",
        "--since",
        since,
        "--model",
        model,
        "--type",
        "stage.requested",
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as events:
        for line in events.stdout or ():
            yield json.loads(line)["data"]["candidate"]["target"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Deploy each version that Slipway waits for.")
    parser.add_argument("model")
    parser.add_argument("--first", required=True, help="group that gets the first version: the one without traffic")
    parser.add_argument("--folder", type=Path, required=True, help="where the files of versions go")
    parser.add_argument("--since", default="1m", help="orders of so long ago count, too: after a restart of this")
    parser.add_argument("command", nargs="+", help="run as COMMAND GROUP FOLDER NAME URL…")
    options = parser.parse_args()
    for target in orders(options.model, options.since):
        version, variant = f"{options.model}@v{target['version']}", target["variant"]
        name = f"{options.model}.v{target['version']}.{variant}"
        groups = groups_of(ask("endpoints"), options.model)
        if is_deployed(groups, target):
            continue
        group = choose_group(groups, targets_in_traffic(ask("routes"), options.model), options.first)
        if group is None:
            print(f"{name}: every group has traffic, or there is no group {options.first}", file=sys.stderr, flush=True)
            continue
        folder = options.folder / name
        print(f"{name} goes to the group {group}", flush=True)
        subprocess.run(["slipway", "pull", version, "--variant", variant, str(folder)], check=True)
        urls = [replica["endpoint"] for replica in groups[group]]
        subprocess.run([*options.command, group, str(folder), name, *urls], check=True)


if __name__ == "__main__":
    main()
