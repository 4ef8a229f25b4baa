"""Parsing arguments of commands: versions, fingerprints, replicas, policies, hyperparameters."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError
from typer.main import get_command

from clients.cli.commands.installation.stack import inherited_variables, parse_replicas
from clients.cli.commands.policy import load_policy
from clients.cli.commands.publish import check_serving, parse_eval, parse_values, parse_variants
from clients.cli.main import _end_of_library, app
from clients.cli.output import CommandError, Exit
from clients.cli.releases.names import FINGERPRINT, Name, parse_name
from clients.cli.releases.recorded_releases import pick
from clients.cli.sources.upload import steps
from contracts import facts as f
from contracts.vocabulary import ServingSettings, Variant
from shared.runtime.settings import Connection, SourceSettings, describe_variables
from testbed.factories import digest, fact
from tests.kit.command import run_command
from tests.unit.cli.release_facts import RELEASE, release_of, whole_release

POLICY = Path(__file__).resolve().parents[3] / "examples" / "smollm2" / "policy.yaml"


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("fp_support-bot.v3.int8.0a1b2c3d", ("support-bot", "3", "int8", "0a1b2c3d")),
        ("support-bot.v3.gptq-int4", ("support-bot", "3", "gptq-int4", None)),
        ("fp_a.v0.bf16.00000000", ("a", "0", "bf16", "00000000")),
    ],
)
def test_fingerprints_are_parsed(text, groups):
    assert FINGERPRINT.match(text).groups() == groups


@pytest.mark.parametrize("text", ["fp_", "support-bot.v3", "support-bot.v3.int9", "fp_x.v1.int8.zzzzzzzz"])
def test_an_invalid_fingerprint_does_not_match(text):
    assert FINGERPRINT.match(text) is None


def test_replicas_are_parsed():
    assert parse_replicas(["quantiser=3", "merger=2"]) == {"quantiser": 3, "merger": 2}
    assert parse_replicas(["gateway=2", "notifier=2"]) == {"gateway": 2, "notifier": 2}


@pytest.mark.parametrize("item", ["quantiser", "quantiser=0", "quantiser=99", "quantiser=x", "unknown=2", "mirror=2"])
def test_impossible_replicas_are_refused_as_usage(item, capsys):
    with pytest.raises(typer.Exit) as ended:
        parse_replicas([item])
    assert ended.value.exit_code == Exit.USAGE
    assert capsys.readouterr().err.startswith("slipway: ")


ALLOWED = {"SLIPWAY_HF_ENDPOINT": "https://huggingface.co", "ROLLBACK_CONTROLLER_PRODUCTION_DRILLS": "*"}


def test_parts_do_not_inherit_the_address_of_another_stack():
    environment = {
        "PATH": "/bin",
        "SLIPWAY_NATS_URL": "nats://elsewhere",
        "SLIPWAY_STACK": "other",
        "SLIPWAY_LOG_LEVEL": "DEBUG",
        "SERVER_MANAGER_TRITON_GRPC": "elsewhere:1",
        "SERVER_MANAGER_AGENT_GRPC": "elsewhere:2",
        "TRITON_AGENT_ADMIN_KEY": "another",
        "SERVER_MANAGER_TOY": "{}",
        **ALLOWED,
    }
    kept = {"PATH", "SLIPWAY_LOG_LEVEL", "SERVER_MANAGER_TOY", *ALLOWED}
    assert inherited_variables(environment) == {name: environment[name] for name in kept}


def test_parts_inherit_the_file_of_keys_wherever_they_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert inherited_variables({"SLIPWAY_SERVER_KEYS": "keys"})["SLIPWAY_SERVER_KEYS"] == str(tmp_path / "keys")


@pytest.mark.parametrize("name", ALLOWED)
def test_model_hub_and_drills_are_allowed_in_a_stack_unless_a_variable_says_otherwise(name):
    assert inherited_variables({}) == ALLOWED
    assert inherited_variables({name: ""}) == {**ALLOWED, name: ""}


def test_a_policy_is_read_from_yaml_and_json(tmp_path):
    policy = load_policy(POLICY)
    as_json = tmp_path / "policy.json"
    as_json.write_text(json.dumps(policy.model_dump(mode="json")))
    assert load_policy(as_json) == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("triggers: []", "triggers"),
        ("gatse: []\ntriggers: []", "gatse"),
        ("[", "neither YAML nor JSON"),
        ("", "not valid"),
    ],
)
def test_a_wrong_policy_is_refused_with_what_is_wrong(tmp_path, text, message):
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(CommandError, match=message):
        load_policy(file)


def test_a_file_that_is_no_yaml_is_refused_in_one_line_with_the_place(tmp_path):
    (tmp_path / "policy.yaml").write_text("canary: {\n")
    with pytest.raises(CommandError, match=r"policy.yaml is neither YAML nor JSON: .* in line 2, column 1$"):
        load_policy(tmp_path / "policy.yaml")


def test_variables_that_are_not_valid_are_named_with_their_values():
    with pytest.raises(ValidationError) as refused:
        Connection(s3_region="no region")
    assert "SLIPWAY_S3_REGION=no region: " in describe_variables(Connection, refused.value)


def test_a_list_that_is_no_json_is_named_by_its_variable(monkeypatch, capsys):
    monkeypatch.setenv("SLIPWAY_FILE_ROOTS", "/data")
    with pytest.raises(SettingsError) as refused:
        SourceSettings()
    with pytest.raises(SystemExit) as ended:
        _end_of_library(refused.value)
    assert (ended.value.code, "SLIPWAY_FILE_ROOTS" in capsys.readouterr().err) == (int(Exit.USAGE), True)


def test_a_missing_policy_file_is_refused(tmp_path):
    with pytest.raises(CommandError, match=r"cannot be read"):
        load_policy(tmp_path / "nothing.yaml")


def test_a_release_is_found_by_model_version_and_release():
    release = release_of(whole_release())
    for name in (Name(), *map(parse_name, ("support-bot", "support-bot@v7", RELEASE))):
        assert pick([release], name) is release
    for text in ("support-bot@v8", "other", "r-0123456789abcdef-2"):
        assert pick([release], parse_name(text)) is None


def test_hyperparameters_keep_the_type_that_json_gives_them():
    items = ["lr=0.001", "steps=20", "packing=false", "scheduler=cosine", "modules=[1]", "note=a=b"]
    values = parse_values(items, "hyperparameter")
    assert values == {"lr": 0.001, "steps": 20, "packing": False, "scheduler": "cosine", "modules": [1], "note": "a=b"}


def test_serving_settings_are_none_unless_one_is_given_and_refused_with_the_valid_ones():
    assert check_serving(ServingSettings()) is None
    options = parse_values(["enable_thinking=false"], "template option")
    settings = ServingSettings(tool_parser="hermes", template_options=options)
    assert check_serving(settings) == settings
    with pytest.raises(
        CommandError, match=r"'herms' is not a parser of the engine; it has apertus, .* hermes, "
    ) as caught:
        check_serving(ServingSettings(tool_parser="herms"))
    assert caught.value.code == Exit.USAGE
    with pytest.raises(CommandError, match=r"the engine option 'max_num_seqs' is not valid: write key=value"):
        parse_values(["max_num_seqs"], "engine option")


@pytest.mark.parametrize(
    ("text", "value", "higher"),
    [
        ("tickets:accuracy=0.87", 0.87, True),
        ("a b:eval_loss=-1.5e-3", -0.0015, False),
        ("x:perplexity=12", 12.0, False),
    ],
)
def test_evaluation_results_are_parsed(text, value, higher):
    result = parse_eval(text)
    assert (result.value, result.higher_is_better) == (value, higher)


@pytest.mark.parametrize("text", ["accuracy=0.5", "a:b", "a:b=x", "a:b=nan", "a:b=1.2.3", ":=1"])
def test_an_invalid_evaluation_result_is_refused(text):
    with pytest.raises(CommandError, match=r"name:metric=value"):
        parse_eval(text)


def test_unknown_variants_are_refused_and_repeated_ones_counted_once():
    assert parse_variants(["int8", "bf16", "int8"]) == ("int8", "bf16")
    with pytest.raises(CommandError, match=r"fp4"):
        parse_variants(["fp4"])


def test_every_precision_can_be_requested_and_the_policy_of_the_example_has_a_gate_for_each_that_loses_quality():
    options = [text for variant in get_args(Variant) for text in ("--variant", variant)]
    others = ["--model", "m", "--base", "b", "--adapter", ".", "--run-id", "r", "--data-hash", digest("data")]
    group: Any = get_command(app)
    requested = group.commands["publish"].make_context("publish", [*others, *options]).params["variant"]
    ready = fact(f.CheckpointReady, variants=parse_variants(requested), policy=load_policy(POLICY))
    assert ready.variants == get_args(Variant)
    assert set(ready.policy.quality) == set(ready.variants) - {"bf16"}


def test_a_progress_bar_gets_the_bytes_since_the_last_call():
    advances = []
    report = steps(advances.append)
    for done in (10, 10, 25):
        report(done, 25)
    assert advances == [10, 0, 15]


def test_open_starts_no_browser():
    """A browser's arguments are visible to all users of the machine, and the link signs in."""
    status, _, err = run_command({}, "open", "--browser")
    assert (status, "No such option" in err) == (2, True), err
