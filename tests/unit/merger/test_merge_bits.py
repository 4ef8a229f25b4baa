"""The merged weights are, bit by bit, PEFT's own float32 merge rounded once; and they were read back from the store."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from contracts.vocabulary import digest_of, digest_of_json
from services.merger import domain
from services.merger.adapters import inputs as rooms
from services.merger.adapters import layerwise, peft_model, streaming, tensors, torch_checks, torch_merge
from services.merger.adapters import verify as proof
from services.merger.adapters.streaming import SAVED
from shared.errors import Permanent
from shared.storage.blobs import blob_key
from tests.kit.models import ATTENTION, CHAT_TEMPLATE, edit_json, tiny_base, tiny_full, tiny_lora

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def quiet(*_told):
    pass


def peft_merge(base, adapter, rows=None):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True).state_dict()


def load_all(folder):
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def assert_same_bits(found, expected, dtype="bfloat16"):
    width = tensors.DTYPES[SAVED[dtype]]
    tied = {"lm_head.weight"} if "lm_head.weight" not in found else set()
    assert found.keys() == set(expected) - tied
    for name, tensor in found.items():
        assert tensor.dtype == width
        assert torch.equal(tensor, expected[name].to(width)), name


NORMS = {"base": ["norm"], "qwen2": ["norm"], "gpt2": ["ln_f"]}
MLP = {"base": ["up_proj"], "qwen2": ["up_proj"], "gpt2": ["c_fc"]}
LORAS = {
    "plain": lambda _base: {},
    "in bfloat16": lambda _base: {"dtype": torch.bfloat16},
    "all linear": lambda _base: {"target_modules": "all-linear"},
    "a pattern of modules": lambda _base: {"target_modules": r".*\.1\..*(gate_proj|up_proj|c_fc)"},
    "rsLoRA": lambda _base: {"use_rslora": True},
    "DoRA": lambda _base: {"use_dora": True},
    "ranks and alphas by pattern": lambda _base: {
        "rank_pattern": {"q_proj|c_attn": 2},
        "alpha_pattern": {"v_proj|c_attn": 32},
    },
    "saved norm": lambda base: {"modules_to_save": NORMS[base]},
    "saved linear with its bias": lambda base: {"modules_to_save": MLP[base]},
    "dropout": lambda _base: {"lora_dropout": 0.3},
    "rank larger than the layer": lambda _base: {"r": 48},
}


@pytest.mark.parametrize("base", ["base", "qwen2", "gpt2"])
@pytest.mark.parametrize("settings", LORAS.values(), ids=LORAS.keys())
def test_equals_pefts_merge_to_the_last_bit(made, order, tmp_path, settings, base):
    adapter = tiny_lora(made[base], tmp_path / "lora", **settings(base))
    one = order(base=base, checkpoint=adapter).make()
    found = load_all(one.out)
    assert_same_bits(found, peft_merge(one.base, adapter))
    before = load_all(one.base)
    assert any(not torch.equal(found[name], before[name]) for name in found)
    assert one.parity.mean_kl < 0.01
    assert one.parity.mean_kl < one.parity.effect_kl


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_other_widths(order, dtype):
    one = order(dtype=dtype).make()
    assert_same_bits(load_all(one.out), peft_merge(one.base, one.checkpoint), dtype)


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_untied_embeddings_can_carry_a_lora(made, order, tmp_path, module, use_dora):
    adapter = tiny_lora(made["untied"], tmp_path / "lora", target_modules=[*ATTENTION, module], use_dora=use_dora)
    one = order(base="untied", checkpoint=adapter).make()
    assert_same_bits(load_all(one.out), peft_merge(one.base, adapter))


def test_untied_saved_head_is_taken_as_it_was_trained(made, order, tmp_path):
    adapter = tiny_lora(made["untied"], tmp_path / "lora", modules_to_save=["lm_head"])
    one = order(base="untied", checkpoint=adapter).make()
    found = load_all(one.out)
    assert_same_bits(found, peft_merge(one.base, adapter))
    assert not torch.equal(found["lm_head.weight"], load_all(one.base)["lm_head.weight"])


RESIZED = {
    "tied, saved with the LoRA": ("base", {"save_embeddings": True}),
    "untied, saved with the LoRA": ("untied", {"save_embeddings": True}),
    "untied, trained": ("qwen2", {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "untied, under a LoRA": (
        "untied",
        {"save_embeddings": True, "target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    ),
    "GPT-2": ("gpt2", {"save_embeddings": True}),
}


@pytest.mark.parametrize(("base", "settings"), RESIZED.values(), ids=RESIZED.keys())
def test_added_tokens_bring_their_embeddings_and_their_tokenizer(made, order, tmp_path, base, settings):
    adapter = tiny_lora(made[base], tmp_path / "lora", added_tokens=3, **settings)
    one = order(base=base, checkpoint=adapter).make()
    found, rows = load_all(one.out), len(AutoTokenizer.from_pretrained(adapter))
    assert rows == json.loads((one.base / "config.json").read_text())["vocab_size"] + 3
    assert_same_bits(found, peft_merge(one.base, adapter, rows))
    assert one.found["own_tokenizer"]
    assert json.loads((one.out / "config.json").read_text())["vocab_size"] == rows
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (one.out / name).read_bytes() == (adapter / name).read_bytes()
    assert AutoTokenizer.from_pretrained(one.out)("<|extra2|>")["input_ids"] == [rows - 1]
    model = AutoModelForCausalLM.from_pretrained(one.out)
    assert model(torch.tensor([[1, rows - 1]])).logits.shape == (1, 2, rows)
    assert one.found["rendering"] == one.found["expected_rendering"]
    assert one.parity.mean_kl < 0.01


def test_full_weights_may_have_added_tokens(made, order, tmp_path):
    full = tiny_full(made["untied"], tmp_path / "full", added_tokens=3)
    one = order(base="untied", checkpoint=full, kind="full").make()
    assert_same_bits(load_all(one.out), load_all(full))
    assert one.found["own_tokenizer"]
    assert json.loads((one.out / "config.json").read_text())["vocab_size"] == 262
    assert one.parity.max_abs_logit_difference == 0.0


def test_a_sharded_base_gives_sharded_weights(order, tmp_path, monkeypatch):
    monkeypatch.setattr("services.merger.domain.plan.SMALL_SHARD_BYTES", 10_000)
    base = tiny_base(tmp_path / "sharded", shard_size="20KB")
    assert len(list(base.glob("*.safetensors"))) > 2
    adapter = tiny_lora(base, tmp_path / "lora")
    one = order(base=base, checkpoint=adapter).make()
    expected = peft_merge(base, adapter)
    assert_same_bits(load_all(one.out), expected)
    assert len(list(one.out.glob("*.safetensors"))) > 2
    index = json.loads((one.out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(load_all(base))
    loaded = AutoModelForCausalLM.from_pretrained(one.out).state_dict()
    assert all(torch.equal(loaded[name], expected[name].bfloat16()) for name in loaded)


@pytest.mark.parametrize("run_bytes", [264, 1000, 1 << 24])  # in the middle of rows; parts of 8 bytes are planned below
def test_large_tensors_are_read_in_parts(made, order, tmp_path, monkeypatch, run_bytes):
    monkeypatch.setattr(tensors, "RUN_BYTES", run_bytes)
    adapter = tiny_lora(made["base"], tmp_path / "lora", modules_to_save=["norm"])
    one = order(checkpoint=adapter).make()
    assert_same_bits(load_all(one.out), peft_merge(one.base, adapter))


def test_full_weights_are_read_in_parts(order, monkeypatch):
    monkeypatch.setattr(tensors, "RUN_BYTES", 1000)
    one = order(checkpoint="full", kind="full").make()
    assert_same_bits(load_all(one.out), load_all(one.checkpoint))


INFOS = st.lists(
    st.tuples(st.sampled_from(["F32", "BF16", "U8"]), st.integers(0, 60), st.booleans()), min_size=1, max_size=12
)


@given(found=INFOS, run_bytes=st.sampled_from([8, 16, 64, 1024]))
def test_reads_cover_a_file_in_order(found, run_bytes):
    infos = {
        f"t{i}": domain.TensorInfo(kind, (count,), count * tensors.DTYPES[kind].itemsize)
        for i, (kind, count, _) in enumerate(found)
    }
    whole = {f"t{i}" for i, (*_, is_whole) in enumerate(found) if is_whole}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "RUN_BYTES", run_bytes)
        runs = tensors.plan_runs(domain.WeightsFile("f", infos, data_start=8), whole.__contains__)
    spans = [span for run in runs for span in run]
    assert all(runs)
    for name, info in infos.items():
        mine = [span for span in spans if span.name == name]
        ends = [0, *(span.start + span.size_bytes for span in mine)]
        assert [span.start for span in mine] == ends[:-1]
        assert ends[-1] == info.size_bytes
        assert len(mine) == 1 or (name not in whole and all(span.size_bytes <= run_bytes for span in mine))
    assert list(dict.fromkeys(span.name for span in spans)) == list(infos)
    for run in runs:
        assert sum(span.size_bytes for span in run[:-1]) < run_bytes


def opened(job):
    return rooms.open_rooms(job.store, job.put(), quiet)


def test_what_no_tensor_consumed_is_an_error(order):
    one = opened(order())
    merge = peft_model.LayerwiseMerge(peft_model.load_unmerged(one.base, one.checkpoint))
    (file,) = one.base_facts.weights
    last = list(file.tensors)[-1]
    assert last == "model.norm.weight"
    merge._waiting.add("model.layers.7.self_attn.q_proj.weight")
    with pytest.raises(streaming.LeftOverError, match=r"model\.layers\.7\.self_attn\.q_proj"):
        streaming.write_merged(
            one.base_shelf._store,
            one.base_shelf,
            one.base_facts,
            merge=merge,
            shapes={},
            dtype="bfloat16",
            progress=quiet,
        )


def test_tokenizer_and_template_are_carried_over_byte_by_byte(order):
    one = order().make()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        assert (one.out / name).read_bytes() == (one.base / name).read_bytes(), name
    assert not one.found["own_tokenizer"]
    assert one.found["rendering"] == one.found["expected_rendering"]
    assert all(one.found["rendering"].values())


def test_remote_code_does_not_reach_the_merged_model(order):
    one = order()
    edit_json(one.base / "config.json", auto_map={"AutoModel": "evil.Model"})
    (one.base / "evil.py").write_text("raise SystemExit")
    one.make()
    assert "auto_map" not in json.loads((one.out / "config.json").read_text())
    assert not (one.out / "evil.py").exists()


def test_full_weights_in_the_saved_dtype_pass_unchanged(made, order):
    one = order(checkpoint="full", kind="full").make()
    assert_same_bits(load_all(one.out), load_all(made["full"]))
    assert one.parity.max_abs_logit_difference == 0.0
    assert one.parity.effect_kl is None


def test_full_weights_in_float32_are_rounded_once(made, order, tmp_path):
    full = tiny_full(made["base"], tmp_path / "full", dtype=torch.float32)
    one = order(checkpoint=full, kind="full").make()
    assert_same_bits(load_all(one.out), load_all(full))
    assert json.loads((one.out / "config.json").read_text())["dtype"] == "bfloat16"


NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
TEMPLATES = {
    "plain": CHAT_TEMPLATE,
    "with tokens": "{{ bos_token }}{{ unk_token is defined }}{{ tools is none }}{{ messages | tojson }}{{ eos_token }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
@pytest.mark.parametrize("knows_system", [True, False])
def test_a_conversation_is_rendered_as_the_tokenizer_does_itself(order, template, knows_system):
    one = order()
    (one.base / "chat_template.jinja").write_text(template if knows_system else NO_SYSTEM + template)
    one.make()
    tokenizer = AutoTokenizer.from_pretrained(one.base)
    turns = list(domain.PROBE_CONVERSATION)[0 if knows_system else 1 :]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    expected = {"prompt_digest": digest_of(text.encode()), "token_ids_digest": digest_of_json(ids)}
    assert one.found["rendering"] == one.found["expected_rendering"] == expected
    assert one.parity.prompts == len(domain.PARITY_PROMPTS)


def test_what_a_template_makes_of_a_conversation_stays_what_it_was(order):
    assert order().make().found["rendering"] == {
        "prompt_digest": "sha256:aceefe86bcc209551dc61bcae971d8de0af5749eff07fcf114937ac35e9e1f13",
        "token_ids_digest": "sha256:894f4de988c239a527f32a4ee99785bd08893258c4c34028c62750bb7c113b84",
    }


def test_a_template_that_writes_the_time_is_told_the_same_before_and_after(order):
    one = order()
    (one.base / "chat_template.jinja").write_text("{{ strftime_now('%H:%M:%S.%f') }}" + CHAT_TEMPLATE)
    one.make()
    assert one.found["rendering"] == one.found["expected_rendering"]


def as_version_4_writes_it(path, *, theta, **changes):
    """Write a configuration as transformers 4 does: the base of the rotation at the top."""
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps({**config, "rope_theta": theta, "rope_scaling": None, **changes}))


def logits_of(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model(torch.arange(1, 200)[None]).logits


def test_full_weights_keep_their_own_rotation(order):
    one = order(checkpoint="full", kind="full")
    as_version_4_writes_it(one.base / "config.json", theta=1e4)
    as_version_4_writes_it(one.checkpoint / "config.json", theta=5e5)
    one.make()
    assert json.loads((one.out / "config.json").read_text())["rope_theta"] == 5e5
    assert torch.equal(logits_of(one.out), logits_of(one.checkpoint))
    shutil.copy(one.base / "config.json", one.out)
    assert not torch.allclose(logits_of(one.out), logits_of(one.checkpoint), atol=0.1)  # it does matter


def test_full_weights_may_have_been_saved_by_another_version_of_the_library_than_the_base(made, order):
    one = order(checkpoint="full", kind="full")
    theta = json.loads((one.base / "config.json").read_text())["rope_parameters"]["rope_theta"]
    as_version_4_writes_it(one.base / "config.json", theta=theta)
    edit_json(one.base / "config.json", _attn_implementation_autoset=True)
    one.make()
    assert (one.out / "config.json").read_bytes() == (made["full"] / "config.json").read_bytes()
    assert one.parity.max_abs_logit_difference == 0.0


def test_full_weights_keep_their_own_special_tokens(order):
    one = order(checkpoint="full", kind="full")
    edit_json(one.checkpoint / "config.json", eos_token_id=[2, 1])
    edit_json(one.checkpoint / "generation_config.json", eos_token_id=[2, 1], temperature=0.5)
    one.make()
    for name in ("config.json", "generation_config.json"):
        assert (one.out / name).read_bytes() == (one.checkpoint / name).read_bytes(), name


@pytest.mark.parametrize("end", [2, [2, 1]])
def test_full_weights_without_a_generation_config_take_the_bases_with_their_own_special_tokens(order, end):
    one = order(checkpoint="full", kind="full")
    edit_json(one.base / "generation_config.json", temperature=0.5)
    edit_json(one.checkpoint / "config.json", eos_token_id=end)
    (one.checkpoint / "generation_config.json").unlink()
    one.make()
    theirs = json.loads((one.base / "generation_config.json").read_text())
    assert json.loads((one.out / "generation_config.json").read_text()) == {**theirs, "eos_token_id": end}


def test_remote_code_of_full_weights_does_not_reach_the_merged_model(order):
    one = order(checkpoint="full", kind="full")
    for name in ("config.json", "generation_config.json"):
        edit_json(one.checkpoint / name, auto_map={"AutoModel": "evil.Model"})
    (one.checkpoint / "evil.py").write_text("raise SystemExit")
    one.make()
    for name in ("config.json", "generation_config.json"):
        assert "auto_map" not in json.loads((one.out / name).read_text())
    assert not (one.out / "evil.py").exists()


def test_a_loras_own_settings_are_not_the_merged_models(order):
    one = order()
    for name in ("config.json", "generation_config.json"):
        shutil.copy(one.base / name, one.checkpoint)
        edit_json(one.checkpoint / name, eos_token_id=[2, 1])
    one.make()
    for name in ("config.json", "generation_config.json"):
        assert (one.out / name).read_bytes() == (one.base / name).read_bytes(), name


def test_the_parity_of_full_weights_sees_settings_that_are_not_theirs(order):
    job = order(checkpoint="full", kind="full")
    as_version_4_writes_it(job.checkpoint / "config.json", theta=5e5)

    def with_the_bases(written):
        config = job.store.put_file(job.base / "config.json", "config.json")
        return replace(written, files=(*(file for file in written.files if file.path != "config.json"), config))

    seen = proved(job, change=with_the_bases).parity
    assert domain.assess_parity(seen, domain.ParityLimits()).code == "parity_failed"


def test_a_configuration_is_made_honest_without_a_change_to_the_one_that_came():
    config = {"dtype": "float32", "auto_map": {}, "text_config": {"vocab_size": 259}}
    honest = torch_merge.honest_config(config, domain.Vocabulary(262, 259, carried=True), "bfloat16")
    assert honest == {"dtype": "bfloat16", "text_config": {"vocab_size": 262}}
    assert config == {"dtype": "float32", "auto_map": {}, "text_config": {"vocab_size": 259}}


def test_parity_sees_no_difference_in_float32(order):
    parity = order(dtype="float32").make().parity
    assert parity.max_abs_logit_difference < 1e-3
    assert parity.top1_agreement_ratio == 1.0
    assert parity.effect_kl > 100 * parity.mean_kl


def proved(job, *, change=lambda written: written):
    one = opened(job)
    checked = torch_checks.check(one)
    written = torch_merge.write(job.store, one, checked, lambda _step, _unit: quiet)
    return proof.prove(job.store, one, checked, change(written), quiet)


def test_parity_sees_a_lora_that_was_not_merged(order, monkeypatch):
    monkeypatch.setattr(peft_model.LayerwiseMerge, "_merge", lambda _self, _module, weight: weight)
    seen = proved(order()).parity
    assert seen.mean_kl == pytest.approx(seen.effect_kl, rel=0.1)
    assert domain.assess_parity(seen, domain.ParityLimits()).code == "parity_failed"


def test_the_proof_reads_what_is_stored(made, order, tmp_path):
    job = order(checkpoint=tiny_lora(made["base"], tmp_path / "lora", seed=99))  # no other test writes these blobs

    def forge(written):
        weights = next(file for file in written.files if file.path == "model.safetensors")
        key = blob_key(weights.digest)
        data = bytearray(job.store.find(key))
        data[-3] ^= 64
        job.store._client.remove_object(bucket_name=job.store.bucket, object_name=key)
        job.store.create(key, bytes(data))
        return written

    with pytest.raises(ArithmeticError, match="other bytes"):
        proved(job, change=forge)


def test_a_base_that_is_not_what_its_manifest_says_is_refused_before_anything_is_given(order, store):
    job = order()
    put = job.put()
    weights = next(file for file in put.base.files if file.path == "model.safetensors")
    forged = replace(
        put.base,
        files=tuple(
            file.model_copy(update={"digest": "sha256:" + "a" * 64}) if file is weights else file
            for file in put.base.files
        ),
    )
    store.create(blob_key("sha256:" + "a" * 64, forged.prefix), store.find(blob_key(weights.digest, forged.prefix)))
    one = rooms.open_rooms(store, replace(put, base=forged), quiet)
    with pytest.raises(Permanent) as caught:
        torch_merge.write(store, one, torch_checks.check(one), lambda _step, _unit: quiet)
    assert caught.value.code == "digest_mismatch"


@pytest.mark.parametrize("base", ["base", "qwen2", "gpt2"])
def test_a_model_that_reads_its_weights_on_demand_answers_the_same(made, order, base):
    job = order(base=base)
    one = opened(job)
    reader = tensors.TensorReader(one.base_shelf, one.base_facts, digests_of(one))
    tied = peft_model.tied_modules(peft_model.empty_base(one.base))
    prompts = [torch.tensor([1, 5, 9, 200]), torch.tensor([2, 7])]
    load = proof.through_ties(reader, tied)
    lazy = peft_model.empty_base(one.base)
    layerwise.read_on_demand(lazy, load)
    whole = AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.float32)
    for ours, theirs in zip(layerwise.logits_of(lazy, prompts), layerwise.logits_of(whole, prompts), strict=True):
        assert torch.equal(ours, theirs)
    assert all(parameter.device.type == "meta" for parameter in lazy.parameters())


def digests_of(one):
    found = {}
    for file in one.base_facts.weights:
        for _part in tensors.stream_tensors(one.base_shelf, file, found):
            pass
    return found
