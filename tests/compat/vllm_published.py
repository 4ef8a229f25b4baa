"""Run vLLM's own published tests of its OpenAI API against a real gateway, Triton and vLLM; compare with what is expected.

    python -m tests.compat.vllm_published [--plain | --url URL] [--source DIR] [--only PART …] [--write FILE]

The tests come from the package registry, at the version of vLLM that is pinned, and are not committed. `vllm_published.json`
has what is expected of each file and test, with the reason of each failure. A test that is expected to pass and fails is a
regression: exit code 1, as for a test that has no expectation. `--plain` runs the same tests against vLLM's own server and model:
a test whose reason starts with "vLLM, too" must fail there, every other one must pass.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from examples.smollm2.base import save_smollm2
from testbed.ports import free_port
from testbed.servers import Server, running
from tests.compat import vllm_source
from tests.compat.run import MODEL, VARIABLES, Served, serving

HERE = Path(__file__).parent
EXPECTED = HERE / "vllm_published.json"
CONTEXT = 8_192
"""Tokens of a prompt and its answer: vLLM's tests ask for so many."""
TEST_S, RUN_S = 30, 1_200
PASSES, FAILS, TOO, VARIES, NOT_RUN = "passes", "fails: ", "fails: vLLM, too: ", "varies: ", "not run: "


@dataclass(frozen=True)
class Expected:
    """What `vllm_published.json` holds: by file and by test, `passes` or what happens instead and why."""

    vllm: str
    files: Mapping[str, str]
    tests: Mapping[str, str]


@dataclass
class Comparison:
    """How a run differs from what is expected, as sentences."""

    wrong: list[str] = field(default_factory=list)
    better: list[str] = field(default_factory=list)


def read_expected(path: Path = EXPECTED) -> Expected:
    """Return the expectations."""
    return Expected(**json.loads(path.read_text()))


def find_unjudged(folder: Path, expected: Expected) -> list[str]:
    """Return the files of vLLM's tests that start its server, and that neither a file nor a folder of `files` covers."""
    unjudged = []
    for part in ("entrypoints", "tool_use"):
        for path in sorted((folder / part).rglob("test_*.py")):
            name = str(path.relative_to(folder))
            asks = re.search(r"RemoteOpenAIServer|RemoteLaunchRenderServer|: openai\.AsyncOpenAI", path.read_text())
            covered = any(name == known or (known[-1] == "/" and name.startswith(known)) for known in expected.files)
            if asks and not covered:
                unjudged.append(name)
    return unjudged


def compare(outcomes: Mapping[str, tuple[str, str]], expected: Mapping[str, str], *, plain: bool = False) -> Comparison:
    """Return how the outcomes of tests differ from what is expected of them.

    Args:
        outcomes: by test, `passed`, `failed` or `skipped`, and the reason.
        expected: by test, what is expected of it on the gateway.
        plain: the tests ran against vLLM's own server: only what fails there, too, may fail.
    """
    result = Comparison()
    for test, (outcome, reason) in outcomes.items():
        known = expected.get(test)
        passes = known == PASSES or (plain and known is not None and not known.startswith((TOO, VARIES, NOT_RUN)))
        if known is None:
            result.wrong.append(f"{test} is not in {EXPECTED.name}; it {outcome}: {reason}")
        elif passes and outcome != "passed":
            result.wrong.append(f"{test} {outcome}, and is expected to pass: {reason}")
        elif outcome == "passed" and known.startswith(TOO if plain else FAILS):
            result.better.append(f"{test} passes; expected: {known}")
    for test, known in expected.items():
        if test not in outcomes and not known.startswith(NOT_RUN):
            result.wrong.append(f"{test} did not run; expected: {known}")
    return result


class PlainServer(Server):
    """vLLM's own server with the same model and options."""

    name = "vllm"
    ready_s = 300.0

    def __init__(self, folder: Path, model: Path) -> None:
        super().__init__(folder)
        self.model, self.port = model, free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        command = [str(vllm_source.ENGINE / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(self.model), "--served-model-name", MODEL, "--max-model-len", str(CONTEXT)]
        command += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
        command += ["--dtype", "bfloat16", "--enforce-eager"]  # as our backend on a CPU
        return [*command, "--host", "127.0.0.1", "--port", str(self.port)]

    def environment(self) -> dict[str, str]:
        ours = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
        return {**os.environ, "HF_HUB_OFFLINE": "1", **ours}

    def ready(self) -> bool:
        import httpx

        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def serving_plain() -> Iterator[Served]:
    """Serve SmolLM2 by vLLM's own server."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        base = folder / "base"
        save_smollm2(base)
        server = stack.enter_context(running(PlainServer(folder / "vllm", base)))
        yield Served(server.url, base)


@contextmanager
def serving_elsewhere(url: str) -> Iterator[Served]:
    """Use a server that runs already."""
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        save_smollm2(base)
        yield Served(url, base, os.environ.get("OPENAI_API_KEY", "none"))


def run_tests(source: Path, served: Served, files: Iterable[str], left: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Run vLLM's tests; return the outcome and reason of each.

    Args:
        source: the folder with vLLM's `tests`.
        served: where the tests send their requests, and the model's folder.
        files: which to run, relative to `tests`.
        left: the tests to leave out.
    """
    python = vllm_source.install()
    with tempfile.TemporaryDirectory() as scratch:
        folder, report = Path(scratch), Path(scratch) / "report.jsonl"
        vllm_source.copy_for(MODEL, source, folder)
        (folder / MODEL).symlink_to(served.folder)  # the tests load the tokenizer of the model they name
        report.touch()
        command = [python, "-m", "pytest", *(f"tests/{name}" for name in files), "-q", "-W", "ignore"]
        command += ["-p", "vllm_plugin", "-c", os.devnull, "--rootdir", folder]
        command += ["--confcutdir", folder / "tests" / "entrypoints", "--timeout", str(TEST_S), "--tb", "short"]
        for test in left:
            command += ["--deselect", f"tests/{test}"]
        if any(name.startswith("tool_use/") for name in files):
            command += ["--models", "hermes"]  # one of its configurations; it takes every word that follows
        environment = {name: os.environ[name] for name in VARIABLES if name in os.environ} | {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "PYTHONPATH": f"{HERE}:{folder}",
            "SLIPWAY_COMPAT_URL": served.url,
            "SLIPWAY_COMPAT_KEY": served.key,
            "SLIPWAY_COMPAT_REPORT": str(report),
            "SLIPWAY_COMPAT_MODEL_FOLDER": str(served.folder),
        }
        with suppress(subprocess.TimeoutExpired):  # what did not run is missing in the report
            subprocess.run(command, cwd=folder, env=environment, timeout=RUN_S, check=False, stdout=sys.stderr)
        lines = [json.loads(line) for line in report.read_text().splitlines()]
    return {line["test"].removeprefix("tests/"): (line["outcome"], line["reason"]) for line in lines}


def main() -> None:
    """Run the tests, compare, and print what differs."""
    parser = argparse.ArgumentParser(description="Run vLLM's published tests against a real gateway.")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--plain", action="store_true", help="run them against vLLM's own server instead")
    where.add_argument(
        "--url", help="run them against a gateway that serves SmolLM2 as `bot` already, with the key in OPENAI_API_KEY"
    )
    parser.add_argument("--source", type=Path, help="a folder with vLLM's tests; else they are downloaded")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="PART", help="only files whose path contains one of these"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write outcomes and reasons there, as JSON")
    given = parser.parse_args()
    expected = read_expected()
    version = vllm_source.pinned_version()
    source = given.source or vllm_source.fetch(version)
    unjudged = find_unjudged(source / "tests", expected)
    files = [
        name for name, known in expected.files.items() if known == "run" and any(part in name for part in given.only)
    ]
    known = {test: what for test, what in expected.tests.items() if test.partition("::")[0] in files}
    left = [test for test, what in known.items() if what.startswith(NOT_RUN)]
    server = serving_plain() if given.plain else serving_elsewhere(given.url) if given.url else serving(CONTEXT)
    with server as served:
        outcomes = run_tests(source, served, files, left)
    if given.write:
        given.write.write_text(json.dumps(outcomes, indent=1))
    result = compare(outcomes, known, plain=given.plain)
    for outcome in ("passed", "failed", "skipped"):
        print(f"{outcome}: {sum(what == outcome for what, _ in outcomes.values())}")
    wrong = result.wrong + [f"{name} is not judged in {EXPECTED.name}" for name in unjudged]
    if version != expected.vllm:
        wrong.append(f"{EXPECTED.name} is of vLLM {expected.vllm}, and {version} is pinned")
    for sentence in (*wrong, *result.better):
        print(re.sub(r"\s+", " ", sentence)[:300])
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
