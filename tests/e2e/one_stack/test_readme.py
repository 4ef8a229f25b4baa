"""The README's first release, block by block as it stands, on a running stack; only the base model is a small one."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from examples.smollm2 import train
from testbed.lint.names import problem_of
from testbed.stack import ROOT

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
BASE = "smollm2-135m-instruct"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[str]:
    """Return the shell blocks of the section, the one that starts the stack and trains first."""
    text = (ROOT / "README.md").read_text()
    section = text.split("## Your first release\n")[1].split("\n## ")[0]
    return BLOCK.findall(section)


@pytest.fixture
def shell(stack, tiny, tmp_path):
    """Run a script where `slipway` is the command, in a folder that holds what the first block leaves."""
    stack.ok("base", "import", str(tiny["base"]), "--name", BASE)
    shutil.copytree(tiny["one"], tmp_path / "runs/1/adapter")
    config = tmp_path / "runs/1/adapter/adapter_config.json"
    named = json.loads(config.read_text()) | {"base_model_name_or_path": BASE}
    config.write_text(json.dumps(named))
    (tmp_path / "runs/1/train.jsonl").write_text('{"prompt": "What does a for loop do?"}\n')
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/slipway"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m clients.cli.main "$@"\n')
    command.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(script: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
            env={**os.environ, "PATH": path, "SLIPWAY_STATE": str(stack.state)},
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}\n{stack.tail()}"
        return done.stdout

    return run


def test_the_commands_of_the_first_block_can_be_typed():
    commands = [line for line in blocks()[0].splitlines() if line.startswith("slipway ")]
    assert len(commands) == 2
    assert [problem for line in commands if (problem := problem_of(line))] == []


def test_the_training_of_the_first_block_takes_the_folder_that_is_kept_and_leaves_the_one_that_is_published():
    first, _, publish, _ = blocks()
    kept = re.search(r"--keep-folder (\S+)", first)
    (line,) = (line for line in first.splitlines() if line.startswith("python "))
    module, *arguments = shlex.split(line.removeprefix("python -m "))
    assert module == "examples.smollm2.train"
    given = train.make_parser().parse_args(arguments)
    assert (given.base, given.steps) == (Path(kept[1]), 20)
    assert f"--adapter {given.out}/adapter" in publish
    assert f"--data {given.out}/train.jsonl" in publish


def test_a_policy_a_publish_and_a_curl_lead_to_an_answer(shell):
    _, policy, publish, ask = blocks()
    shell(policy)
    assert "promoted" in shell(publish).splitlines()[-1]
    printed = shell(ask)
    answer = json.JSONDecoder().raw_decode(printed[printed.index("{") :])[0]
    assert answer["choices"][0]["message"]["content"]
    assert "support-bot@v1" in printed
    assert "run-1" in printed
