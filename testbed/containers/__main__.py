"""Run the installation of compose.yaml in containers: publish, promote, roll back, scale, upgrade; nothing is left.

    python -m testbed.containers [--no-build] [--failures] [--keep]
    python -m testbed.containers --vllm [--no-build] [--keep]
    python -m testbed.containers --hosts [--no-build] [--keep] [--rounds N] [--first N] [--seed N]
        [--ahead-s SECONDS] [--copies N]

Takes podman and docker-compose, as root. Builds the images first (layers of an earlier build are used again); nothing
is pulled. An error or Ctrl-C removes the containers, networks and volumes; the next start does so after a killed run.
"""

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contracts.version import VERSION
from testbed.containers import engine, vllm
from testbed.containers.demo import HIDDEN, Demo, make_models, remove_newer
from testbed.containers.hosts.clock import FOLDER, LIBRARY
from testbed.containers.hosts.cluster import Cluster
from testbed.containers.hosts.rounds import plan
from testbed.containers.hosts.trial import Trial
from testbed.containers.installation import ROOT, Installation, is_ready, state_of
from testbed.containers.waiting import report, step

PROJECT = "slipway-demo"
NEEDED = ("cli", "gateway", "nats", "seaweedfs")
"""Images without which nothing starts, of all that are needed."""
TOY, VLLM = "triton-toy", "triton-vllm"
INTERRUPTED = 130
PACKAGES = (
    "podman", "buildah", "crun", "runc", "catatonit", "netavark", "aardvark-dns", "nftables", "mmdebstrap",
    "docker-compose",
)  # fmt: skip
PACKAGES_OF_HOSTS = ("libfaketime", "util-linux")
"""Debian's packages with what the demo runs, and what failures of hosts need besides."""


@contextlib.contextmanager
def only_one() -> Iterator[Path]:
    """Hold the lock of the demo, and yield a folder for it; what a run that was killed left is removed first."""
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(f"\0{PROJECT}")  # a name without a file: it is free as soon as its process has ended
        except OSError:
            sys.exit("the demo runs already on this machine: wait until it ends, or end it with Ctrl-C")
        for earlier in Path(tempfile.gettempdir()).glob(f"{PROJECT}-*"):
            shutil.rmtree(earlier, ignore_errors=True)
        if removed := engine.remove_all(PROJECT):
            print(f"-- removed what an earlier run left: {len(removed)} containers, networks and volumes")
        with tempfile.TemporaryDirectory(prefix=f"{PROJECT}-") as folder:
            yield Path(folder)


def build_images(*targets: str) -> None:
    """Build the images, all of the demo without targets; end the whole build if this process is interrupted."""
    building = subprocess.Popen([str(ROOT / "deploy/docker/images.sh"), *targets], cwd=ROOT, start_new_session=True)
    try:
        if code := building.wait():
            sys.exit(f"deploy/docker/images.sh ended with exit code {code}: see its output above")
    finally:
        if building.poll() is None:
            os.killpg(building.pid, signal.SIGTERM)
            building.wait(30)


def build(*, use_existing: bool, engine_image: str) -> None:
    """Build the images, with Triton's of this name, or make sure that there are some."""
    if not use_existing:
        with step("build the images; layers whose inputs did not change are used again"):
            build_images()
            if engine_image != TOY:
                build_images(engine_image)
        return
    names = [f"localhost/slipway-{target}:{VERSION}" for target in (*NEEDED, engine_image)]
    there = engine.podman("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    if missing := [name for name in names if name not in there]:
        sys.exit(f"no image {', '.join(missing)}: leave out --no-build, or build them with deploy/docker/images.sh")
    print(f"-- with the images that exist, of version {VERSION}, because of --no-build")


def explain(stack: Installation) -> None:
    """Print the containers that are not ready, with the end of their output, and what to do."""
    with contextlib.suppress(Exception):  # the error that led here is what counts, and is raised after this
        not_ready = [each for each in stack.containers() if not is_ready(each)]
        if waiting := [each["Name"] for each in not_ready if each["State"]["Status"] == "created"]:
            print(f"\n-- not started, because what they wait for is not ready: {', '.join(waiting)}", file=sys.stderr)
        for container in (each for each in not_ready if each["Name"] not in waiting):
            print(f"\n-- {container['Name']}: {state_of(container)}; the end of its output:", file=sys.stderr)
            print(stack.logs(container["Name"]), file=sys.stderr)
        print("\nRun it again with --keep to look at the containers after an error:", file=sys.stderr)
        print("podman ps --all; podman logs NAME; podman inspect NAME", file=sys.stderr)


def run(folder: Path, options: argparse.Namespace) -> None:
    """Run the demo, or the trial of hosts that fail, in a folder, and remove its containers in any case."""
    folder.chmod(0o755)
    (folder / "models").mkdir()
    rounds = plan(options.seed, options.rounds)[options.first - 1 :] if options.hosts else []
    adapters = [f"adapter-{number}" for number in range(1, len(rounds) + 2)] if rounds else ["one", "two"]
    with step(f"make a tiny base model and {len(adapters)} adapters"):
        make_models(folder / "models", adapters, vllm.HIDDEN if options.vllm else HIDDEN, options.copies)
    cluster = Cluster.make(folder, PROJECT) if rounds else None
    if cluster and options.copies > 1:
        cluster.add_triton()
    stack = cluster.stack if cluster else Installation(folder, PROJECT)
    if options.vllm:
        stack.files, stack.variables = vllm.FILES, vllm.VARIABLES
    try:
        with stack:
            try:
                if cluster:
                    Trial(cluster, rounds, options.ahead_s, options.first).run()
                elif options.vllm:
                    vllm.Vllm(stack).run()
                else:
                    Demo(stack, options.failures).run()
            except Exception:
                explain(stack)
                if options.keep:
                    input("-- kept: press Enter to remove all of it ")
                raise
    finally:
        remove_newer()
    if remains := engine.left(PROJECT, stack.volumes):
        sys.exit(f"left behind: {', '.join(remains)}")
    print("-- nothing is left: no container, network, volume or image of the demo")


def _interrupt(number: int, _frame: Any) -> None:
    """End as Ctrl-C does, once: what follows is the removal, which is not interrupted."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    print(f"\n-- {signal.Signals(number).name}: everything is removed; this takes up to a minute", flush=True)
    raise KeyboardInterrupt


def read_options() -> argparse.Namespace:
    """Return the options of the command line; one that does not fit ends the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-build", action="store_true", help="use the images that exist, whatever code they hold")
    parser.add_argument("--failures", action="store_true", help="then pause, kill and disconnect bus and gateway")
    parser.add_argument("--keep", action="store_true", help="after an error, wait for Enter before all is removed")
    parser.add_argument("--hosts", action="store_true", help="instead let hosts of a cluster of three fail under load")
    parser.add_argument("--vllm", action="store_true", help="instead release a tiny model on vLLM for the CPU, and ask")
    parser.add_argument("--rounds", type=int, default=6, help="how often a host fails (default 6: each host twice)")
    parser.add_argument("--first", type=int, default=1, help="the round to begin with, to go on where a run ended")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000), help="draws hosts, failures and moments")
    parser.add_argument("--ahead-s", type=float, default=5.0, help="seconds that the clocks of one host are ahead")
    parser.add_argument("--copies", type=int, default=1, help="copies of the active version, and a third Triton if > 1")
    options = parser.parse_args()
    if options.hosts + options.failures + options.vllm > 1:
        parser.error("--hosts, --failures and --vllm are three different runs: choose one")
    if options.copies not in {1, 2} or (options.copies > 1 and not options.hosts):
        parser.error(
            f"--copies {options.copies} is neither 1 nor 2, or not with --hosts: three Tritons hold two copies"
        )
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds} is less than 1")
    if not 1 <= options.first <= options.rounds:
        parser.error(f"--first {options.first} is not one of the rounds 1 to {options.rounds} (--rounds)")
    return options


def check_machine(options: argparse.Namespace) -> None:
    """End the program if this machine lacks what the containers need."""
    if os.geteuid() != 0:
        sys.exit("the demo gives files to user 10001 and makes networks: run it as root")
    missing = engine.missing_programs()
    if options.hosts:
        missing += [name for name in ("nsenter", "nft") if shutil.which(name) is None]
        missing += [] if (FOLDER / LIBRARY).is_file() else ["libfaketime"]
    if missing:
        packages = " ".join((*PACKAGES, *(PACKAGES_OF_HOSTS if options.hosts else ())))
        sys.exit(f"not installed: {', '.join(missing)}. On Debian: apt-get install --no-install-recommends {packages}")
    if code := subprocess.run([str(ROOT / "deploy/docker/check-podman.sh")], check=False, timeout=60).returncode:
        sys.exit(code)


def main() -> None:
    """Show the installation, step by step; end with an error if a step did not happen."""
    options = read_options()
    check_machine(options)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    began = time.monotonic()
    try:
        with only_one() as folder:
            build(use_existing=options.no_build, engine_image=VLLM if options.vllm else TOY)
            if options.hosts:
                print(f"-- seed {options.seed}: the same rounds again with --seed {options.seed}")
            run(folder, options)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (RuntimeError, TimeoutError, subprocess.SubprocessError) as error:
        sys.exit(f"failed after {time.monotonic() - began:.0f} s: {error}")
    report(f"the whole demo took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
