"""The commands of "Your model", section by section as they stand, on folders as each trainer leaves them; one model for each."""

import json
import re

import pytest

from testbed.stack import POLICY, ROOT
from tests.e2e.one_stack.shell import BLOCK
from tests.kit.trainer_folders import MAKERS

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
PAGE = "docs/your-model.md"
SECTION = re.compile(r"^### (\w+)\n(.*?)(?=^##)", re.MULTILINE | re.DOTALL)


def sections() -> dict[str, str]:
    """Return the commands of each trainer's section."""
    return {name: "".join(BLOCK.findall(body)) for name, body in SECTION.findall((ROOT / PAGE).read_text())}


def test_each_trainer_has_a_section():
    assert sections().keys() == MAKERS.keys()
    first, *_ = BLOCK.findall((ROOT / PAGE).read_text())
    assert first.splitlines() == ["slipway up --detach", "slipway policy init policy.yaml"]


@pytest.mark.full
@pytest.mark.parametrize("trainer", MAKERS)
def test_the_commands_of_a_section_lead_from_the_folder_to_an_answer(shell, empty_stack, trainer):
    MAKERS[trainer](shell.folder)
    shell("slipway policy init policy.yaml")
    (shell.folder / "policy.yaml").write_text(json.dumps(POLICY))  # one that asks for fewer requests
    model = f"bot-{trainer.lower()}"
    base, published, asked = sections()[trainer].replace("support-bot", model).splitlines()
    shell(base)
    checked = shell(f"{published} --check".replace(" --wait", ""))
    assert "nothing speaks against publishing" in checked
    assert ("trained on a quantised base" in checked) == (trainer == "Unsloth")
    assert "promoted" in shell(published).splitlines()[-1]
    assert f"[fp_{model}.v1.bf16." in shell(asked).splitlines()[-1]
    assert empty_stack.route(model)["active"]["target"]["version"] == 1
