"""The README's first release, block by block as it stands, on a running stack; only the base model is a small one."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from examples.smollm2 import train
from testbed.lint.names import problem_of
from testbed.models import edit_json
from tests.e2e.one_stack.shell import shell_blocks

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
BASE = "smollm2-135m-instruct"


def blocks() -> list[str]:
    """Return the shell blocks of the section, the one that starts the stack and trains first."""
    return shell_blocks("README.md", "Your first release")


@pytest.fixture
def trained(shell, stack, tiny):
    """What the first block leaves in the folder of the shell."""
    stack.ok("base", "import", str(tiny["base"]), "--name", BASE)
    shutil.copytree(tiny["one"], shell.folder / "runs/1/adapter")
    edit_json(shell.folder / "runs/1/adapter/adapter_config.json", base_model_name_or_path=BASE)
    (shell.folder / "runs/1/train.jsonl").write_text('{"prompt": "What does a for loop do?"}\n')
    return shell


def test_the_commands_of_the_first_block_can_be_typed():
    commands = [line for line in blocks()[0].splitlines() if line.startswith("slipway ")]
    assert len(commands) == 2
    assert [problem for line in commands if (problem := problem_of(line))] == []


def test_the_training_of_the_first_block_takes_the_base_that_is_written_and_leaves_the_folder_that_is_published():
    first, _, publish, _ = blocks()
    written, trained = (shlex.split(line) for line in first.splitlines() if line.startswith("python -m "))
    assert (written[2], trained[2]) == ("examples.smollm2.base", "examples.smollm2.train")
    given = train.make_parser().parse_args(trained[3:])
    assert (given.base, given.steps) == (Path(written[3]), 20)
    assert f"slipway base import {written[3]} --name {BASE}" in first
    assert f"--adapter {given.out}/adapter" in publish
    assert f"--data {given.out}/train.jsonl" in publish


def test_a_policy_a_publish_and_a_curl_lead_to_an_answer(trained):
    _, policy, publish, ask = blocks()
    trained(policy)
    before = trained(publish)
    assert "promoted" in before.splitlines()[-1]
    printed = trained(ask).removeprefix(before)
    answer = json.JSONDecoder().raw_decode(printed[printed.index("{") :])[0]
    assert answer["choices"][0]["message"]["content"]
    assert "support-bot@v1" in printed
    assert "run-1" in printed
