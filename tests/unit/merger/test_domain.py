"""The merger's pure decisions that need no files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.codes import ADVICE
from contracts.facts import Parity, Weights
from contracts.manifests import FileEntry
from contracts.vocabulary import ArtifactRef
from services.merger import domain
from testbed.factories import base, weights

LIMITS = domain.ParityLimits()
DIGEST = "sha256:" + "a" * 64


def parity(**changes) -> Parity:
    whole = {
        "prompts": 8,
        "max_abs_logit_difference": 2.6,
        "mean_kl": 0.005,
        "top1_agreement_ratio": 0.95,
        "effect_kl": 0.28,
    }
    return Parity(**(whole | changes))


def test_rounding_to_bfloat16_passes():
    assert domain.assess_parity(parity(), LIMITS) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"prompts": 0},
        {"mean_kl": 0.06},
        {"top1_agreement_ratio": 0.8},
        {"mean_kl": 0.02, "effect_kl": 0.02},  # the LoRA is as good as gone
    ],
)
def test_what_does_not_answer_like_its_parts_is_refused(changes):
    rejection = domain.assess_parity(parity(**changes), LIMITS)
    assert rejection.code == "parity_failed"
    assert rejection.details["prompts"] == changes.get("prompts", 8)


def test_a_tiny_effect_is_not_held_against_rounding():
    assert domain.assess_parity(parity(mean_kl=0.005, effect_kl=0.005), LIMITS) is None


@given(st.lists(st.integers(0, 700), max_size=60), st.integers(1, 500))
def test_shards_keep_order_and_lose_nothing(sizes, limit):
    tensors = [(f"t{number}", size) for number, size in enumerate(sizes)]
    shards = domain.plan_shards(tensors, limit)
    assert [name for shard in shards for name in shard] == [name for name, _ in tensors]
    of = dict(tensors)
    for shard in shards:
        assert shard
        assert len(shard) == 1 or sum(of[name] for name in shard) <= limit


@given(st.lists(st.integers(1, 5_000_000_000), min_size=1), st.integers(0, 200_000_000_000))
def test_two_shards_take_no_more_memory_than_the_largest_source_shard(sources, output):
    limit = domain.plan_shard_limit(sources, output)
    assert 0 < limit <= domain.SHARD_LIMIT_BYTES
    if output > limit:  # several shards, of which two are in memory at once
        assert 4 * limit <= max(*sources, 4 * domain.SMALL_SHARD_BYTES)
    else:
        assert output <= max(*sources, domain.SMALL_SHARD_BYTES)


def test_shards_are_named_as_transformers_expects():
    assert domain.shard_name(0, 1) == "model.safetensors"
    assert domain.shard_name(1, 3) == "model-00002-of-00003.safetensors"


def key(**changes) -> str:
    inputs = {
        "model": "support-bot",
        "base": base(),
        "weights": weights(),
        "dtype": "bfloat16",
        "limits": LIMITS,
        "library_versions": {"peft": "0.21.2", "torch": "2.13.0"},
        "hyperparameters": {},
    }
    return domain.plan_output_key(**(inputs | changes))


def test_the_output_key_follows_from_all_that_decides_the_outcome_and_nothing_else():
    assert key() == key(library_versions={"torch": "2.13.0", "peft": "0.21.2"})
    moved = weights().ref.model_copy(update={"uri": "s3://slipway/checkpoints/support-bot/manifests/folder/b.json"})
    assert key(weights=Weights(kind="lora", ref=moved)) == key()
    assert key(hyperparameters={"lr": 1e-4}) == key()
    other = ArtifactRef(uri=moved.uri, digest=DIGEST, size_bytes=1)
    changed = [
        key(model="sales-bot"),
        key(base=base().model_copy(update={"digest": DIGEST})),
        key(weights=Weights(kind="lora", ref=other)),
        key(weights=Weights(kind="full", ref=weights().ref)),
        key(dtype="float16"),
        key(limits=domain.ParityLimits(max_mean_kl=0.1)),
        key(library_versions={"peft": "0.21.3", "torch": "2.13.0"}),
        key(hyperparameters={"lora_r": 8}),
    ]
    assert len({key(), *changed}) == len(changed) + 1


def test_the_tokenizer_digest_sees_the_tokenizer_only():
    def files(**digests):
        return [
            FileEntry(path=path.replace("_json", ".json"), digest=digest, size_bytes=1)
            for path, digest in digests.items()
        ]

    first = domain.tokenizer_digest(files(tokenizer_json=DIGEST, config_json=DIGEST))
    other = "sha256:" + "b" * 64
    assert first == domain.tokenizer_digest(files(config_json=other, tokenizer_json=DIGEST))
    assert first != domain.tokenizer_digest(files(tokenizer_json=other, config_json=DIGEST))


@pytest.mark.parametrize(
    ("path", "included"),
    [
        ("tokenizer.json", True),
        ("generation_config.json", True),
        ("chat_template.jinja", True),
        ("model.safetensors", False),
        ("model.safetensors.index.json", False),
        ("modeling_evil.py", False),
        ("pytorch_model.bin", False),
        ("onnx/config.json", False),
    ],
)
def test_what_is_included_over_from_the_base(path, included):
    assert domain.is_copied(path) is included


def test_files_are_judged_by_name_and_size_alone():
    good = {"adapter_config.json": 10, "adapter_model.safetensors": 10, "README.md": 0}
    assert domain.assess_files("lora", good) is None
    assert domain.assess_files("lora", {**good, "adapter_config.json": 0}).code == "truncated_weights"
    assert domain.assess_files("lora", {**good, "sub/weights.CKPT": 1}).code == "pickle_refused"
    assert domain.assess_files("full", good).code == "artifact_not_found"
    assert domain.assess_files("full", {"config.json": 1}).code == "artifact_not_found"
    assert domain.assess_files("full", {"config.json": 1, "model.safetensors": 0}).code == "truncated_weights"


@pytest.mark.parametrize(
    ("recorded", "setting"),
    [
        ({}, None),
        ({"lr": 1e-4, "r": 8, "lora_alpha": 16}, None),
        ({"lora_r": 8, "alpha": 16}, None),
        ({"alpha": 0.5}, None),  # the alpha of something else: no rank is recorded beside it
        ({"rank": 0, "lora_alpha": 16}, None),  # of a process
        ({"rank": 8, "alpha": 16}, None),
        ({"rank": 16, "alpha": 16}, "r"),
        ({"use_dora": False}, None),
        ({"r": 4}, "r"),
        ({"lora_rank": 8, "alpha": 32}, "lora_alpha"),
        ({"lora_alpha": 32}, "lora_alpha"),
        ({"use_rslora": True}, "use_rslora"),
    ],
)
def test_what_training_recorded_must_be_what_the_lora_says(recorded, setting):
    rejection = domain.assess_recorded({"r": 8, "lora_alpha": 16, "use_rslora": False}, recorded)
    assert (rejection and rejection.details["setting"]) == setting


@pytest.mark.parametrize("value", [None, 0, -1, "8", True])
def test_a_lora_needs_rank_and_alpha(value):
    assert domain.assess_recorded({"r": value, "lora_alpha": 16}, {}).code == "hyperparameters_mismatch"
    assert domain.assess_recorded({"r": 8, "lora_alpha": value}, {}).code == "hyperparameters_mismatch"


def vocabulary_code(size, rows, base_rows=100, *, included=True, extends=True, own=True):
    tokenizer = domain.TokenizerComparison(size, ("vocabulary",), extends) if own else None
    rejection = domain.assess_vocabulary(tokenizer, 90, domain.Vocabulary(rows, base_rows, included))
    return rejection and rejection.code


def test_a_vocabulary_must_fit_its_embedding():
    assert vocabulary_code(103, 103) is None
    assert vocabulary_code(95, 100) is None  # within the base's spare rows, retrained
    assert vocabulary_code(93, 93) is None  # spare rows were cut off
    assert vocabulary_code(104, 103) == "vocabulary_mismatch"
    assert vocabulary_code(90, 103, own=False) == "vocabulary_mismatch"
    assert vocabulary_code(90, 80, own=False) == "vocabulary_mismatch"
    assert vocabulary_code(90, 100, own=False) is None
    assert vocabulary_code(95, 100, included=False) == "tokenizer_changed"
    assert vocabulary_code(103, 103, extends=False) == "tokenizer_changed"


def test_a_full_fine_tune_shares_its_bases_settings_but_some_at_any_depth():
    base = {
        "hidden_size": 8,
        "eos_token_id": 2,
        "text_config": {"rope_parameters": {"rope_theta": 1e4, "rope_type": "a"}},
    }
    settings = {
        "hidden_size": 8,
        "eos_token_id": [2, 1],
        "auto_map": {},
        "text_config": {
            "dtype": "float32",
            "rope_parameters": {"rope_theta": 5e5, "rope_type": "a"},
        },
    }
    assert domain.assess_full_config(settings, base) is None
    settings["text_config"]["rope_parameters"]["rope_type"] = "b"
    rejection = domain.assess_full_config({**settings, "window": 5}, base)
    assert (rejection.code, rejection.details) == ("base_mismatch", {"keys": ["text_config", "window"]})


@pytest.mark.parametrize("holder", ["base", "full"])
def test_notes_of_a_trainer_are_no_settings_and_other_unknown_keys_are(holder):
    settings = {"hidden_size": 8, "text_config": {"rms_norm_eps": 1e-6}}
    notes = {"unsloth_version": "2026.4.2", "text_config": {**settings["text_config"], "unsloth_fixed": True}}
    noted, plain = {**settings, **notes}, settings
    assert domain.assess_full_config(*((plain, noted) if holder == "base" else (noted, plain))) is None
    rejection = domain.assess_full_config({**noted, "dual_chunk_attention_config": {"chunk_size": 8}}, plain)
    assert rejection.details == {"keys": ["dual_chunk_attention_config"]}, "vLLM reads it, transformers does not"
    assert "remove what is only a note" in rejection.reason
    changed = {**noted, "text_config": {"rms_norm_eps": 1e-5}}
    assert domain.assess_full_config(changed, plain).details == {"keys": ["text_config"]}


def test_special_tokens_that_a_full_fine_tune_does_not_name_are_not_changed():
    base = {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": None}
    settings = {"eos_token_id": [2, 1], "bos_token_id": None, "pad_token_id": 0, "vocab_size": 5}
    assert domain.changed_token_ids(settings, base) == {"eos_token_id": [2, 1], "pad_token_id": 0}
    assert domain.changed_token_ids({}, base) == domain.changed_token_ids(base, base) == {}


def test_every_refusal_has_advice():
    assert {"unsupported_adapter", "parity_failed", "tokenizer_changed"} <= set(ADVICE)
