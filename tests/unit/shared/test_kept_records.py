"""The records that a service keeps: every kind is checked at its start, and the refusal says what to do."""

import ast
import re

import pytest

from shared.runtime.exits import NEWER_RECORDS, describe_exit
from shared.storage.kept_records import KeptRecords, describe_newer
from tests.contract.record_kinds import record_kinds
from tests.kit.wiring import ROOT

SHARED = {"contracts.api_keys.ApiKey", "contracts.routes.Route", "contracts.mirrors.Mirror"}
"""Written by several parts, which are never replaced at the same moment: read as far as they are known."""
BY_GATEWAYS = {"contracts.api_usage.MonthlyUsage"}
"""Of no version but the first: an older gateway serves without them."""


def kept_in(main):
    """Return the names in the argument `kept` of the call of `serve` in a service's main module, and where it leads."""
    tree = ast.parse(main.read_text())
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("name", sorted(set(record_kinds()) - SHARED - BY_GATEWAYS))
def test_each_kind_of_record_is_checked_when_its_service_starts(name):
    kind = name.rpartition(".")[2]
    mains = [path for path in (ROOT / "services").glob("*/main.py") if re.search(r"\bkept=", path.read_text())]
    assert any(kind in kept_in(main) for main in mains), f"{name} is not in `kept` of any service"


def test_the_registry_knows_what_each_key_of_its_bucket_holds():
    from services.registry.main import kind_of

    keys = ("bot.model", "bot.announcements", "bot.locks", "bot.01HZX", "bot.model.x")
    assert [kind_of(key).__name__ for key in keys] == [
        "ModelRecord",
        "Announcements",
        "ModelLocks",
        "Release",
        "Release",
    ]


def test_the_refusal_says_what_was_found_what_is_read_and_what_to_do():
    sentence = describe_newer("monitor", [("alerts/bot", 13, 12), ("alerts/cat", 13, 12)])
    assert sentence.startswith(
        "A newer version of monitor wrote 2 records: alerts/bot has schema version 13, and monitor "
    )
    assert "reads versions up to 12" in sentence
    assert "restore a backup" in sentence
    assert describe_exit(NEWER_RECORDS) == "exit code 65: a newer version wrote its records; its log says what to do"


async def test_a_service_without_records_is_ready_at_once_and_one_with_records_once_they_were_read():
    await KeptRecords("gateway", {}).check()
    with pytest.raises(ConnectionError, match="not been read"):
        await KeptRecords("monitor", {"alerts": lambda _: None}).check()
