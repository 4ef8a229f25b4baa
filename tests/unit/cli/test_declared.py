"""Files that declare policies, teams and key scopes: every problem with file and line, no secret, nothing twice."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from clients.cli.declared import is_declarable, read_declarations, scopes_of
from clients.cli.declared_state import plan_changes
from clients.cli.errors import CommandError
from clients.cli.yaml_source import InvalidError
from contracts.api_keys import ApiKey
from tests.kit.command import run_command

AT = datetime(2026, 11, 24, tzinfo=UTC)
POLICY = """\
kind: Policy
model: bot
policy:
  triggers: [{name: errors, metric: error_ratio, threshold: 0.5, action: manual}]
"""
TEAM = "kind: Team\nname: shop\nmodels: [bot]\nquota: {releases: 2}\n"
KEY = "kind: ApiKey\nname: web\nteam: shop\nlimits: {requests_per_minute: 60}\n"


def problems_of(*paths):
    with pytest.raises(InvalidError) as refused:
        read_declarations(paths)
    return [f"{each.line}: {each.message}" for each in refused.value.problems]


def written(folder, text, name="a.yaml"):
    (folder / name).write_text(text)
    return folder / name


def test_files_of_a_folder_are_read_together_hidden_ones_are_not(tmp_path):
    written(tmp_path, f"{TEAM}---\n{POLICY}")
    written(tmp_path, json.dumps({"kind": "ApiKey", "name": "web", "team": "shop"}), "key.json")
    written(tmp_path, "no: file of ours", "README.md")
    (tmp_path / ".git").mkdir()
    written(tmp_path / ".git", "kind: nothing\n")
    declared = read_declarations([tmp_path])
    assert set(declared.values) == {("Team", "shop"), ("Policy", "bot"), ("ApiKey", "web")}
    assert declared.places["Policy", "bot"].line == 6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kind: Polcy\nmodel: a\n", "1: the kind 'Polcy' is unknown: did you mean Policy?"),
        ("a: 1\n", "1: the kind None is unknown: use Policy, Team, ApiKey"),
        ("[1]\n", "1: the kind None is unknown"),
        (POLICY.replace("threshold: 0.5", "threshold: -1"), "4: the trigger 'errors': threshold is -1"),
        (POLICY.replace("  triggers", "  canry: {}\n  triggers"), "4: unknown field canry; did you mean canary?"),
        (
            POLICY.replace(", action: manual", "").replace("policy:\n", "policy:\n  rehearsal: not_required\n"),
            "4: rehearsal: not_required",
        ),
        (
            POLICY.replace("policy:\n", "policy:\n  deadlines: {merge_s: 1.0e+13}\n"),
            "4: deadlines.merge_s is 1e+13 s; the limit is 3,153,600,000 s",
        ),
        (TEAM.replace("releases", "relases"), "4: unknown field relases; did you mean releases?"),
        (TEAM + "members: [anna]\n", "5: unknown field members"),
        (KEY.replace("team: shop\n", ""), "1: a key that opens all models"),
        (KEY.replace("60", "0"), "4: must be at least 1"),
        (KEY + f"secret_digest: sk-slipway-0123456789ab-{'a' * 64}\n", "5: unknown field secret_digest"),
        (f"{TEAM}---\n{TEAM}", "6: it is declared in"),
    ],
)
def test_every_problem_has_its_line(tmp_path, text, expected):
    assert any(each.startswith(expected) for each in problems_of(written(tmp_path, text)))


def test_the_secret_is_not_repeated_in_the_message(tmp_path):
    secret = f"sk-slipway-0123456789ab-{'a' * 64}"
    code, _, err = run_command({}, "apply", "-f", str(written(tmp_path, f"{KEY}key: {secret}\n")), "--json")
    assert code == 2
    assert secret not in err
    assert {each["line"] for each in json.loads(err)["error"]["problems"]} == {5}


def test_the_example_of_the_guide_is_valid(tmp_path):
    guide = (Path(__file__).resolve().parents[3] / "docs" / "guides" / "declarative.md").read_text()
    example = guide.partition("```yaml\n")[2].partition("```")[0]
    declared = read_declarations([written(tmp_path, example)]).values
    assert sorted(kind for kind, _ in declared) == ["ApiKey", "Attachment", "Mirror", "Policy", "Team"]


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(CommandError, match="has no file of"):
        read_declarations([tmp_path])
    with pytest.raises(CommandError, match="cannot be read"):
        read_declarations([tmp_path / "none.yaml"])


def api_key(name, number, **scope):
    return ApiKey(
        key_id=f"{number:012x}",
        name=name,
        secret_digest=f"sha256:{number:064x}",
        issued_at=AT,
        issued_by="admin",
        **scope,
    )


def test_a_key_that_opens_all_models_is_no_surplus_because_no_file_can_declare_it():
    """With --prune, what is surplus is revoked."""
    whole, mixed, old = api_key("whole", 1), api_key("mixed", 2), api_key("old", 3, team="shop")
    records = [whole, mixed, api_key("mixed", 4, models=("bot",)), old]
    assert [name for _, name in scopes_of(records, {})] == ["mixed", "old"]
    assert [is_declarable(each) for each in records] == [False, False, True, True]


def test_a_key_that_was_issued_for_all_models_gets_its_declared_scope(tmp_path):
    wished = read_declarations([written(tmp_path, KEY)]).as_data()
    actual = scopes_of([api_key("web", 1)], wished)
    (change,) = plan_changes(wished, actual, prune=("ApiKey",))
    assert (change.action, change.name) == ("update", "web")


def test_of_several_keys_of_a_name_one_that_differs_is_compared(tmp_path):
    wished = read_declarations([written(tmp_path, KEY)]).as_data()
    as_declared = api_key("web", 1, team="shop", limits={"requests_per_minute": 60})
    other = api_key("web", 2, team="shop")
    for records in ([as_declared, other], [other, as_declared]):
        assert [each.action for each in plan_changes(wished, scopes_of(records, wished))] == ["update"]
    assert plan_changes(wished, scopes_of([as_declared], wished)) == []
