"""The merged weights are, bit by bit, PEFT's own float32 merge rounded once; and they were read back from the store."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from clients.cli.sources.sample_model import CHAT_TEMPLATE
from contracts.vocabulary import digest_of, digest_of_json
from services.merger import domain
from services.merger.adapters import (
    inputs,
    layerwise,
    peft_model,
    streaming,
    tensors,
    torch_checks,
    torch_merge,
    verify,
)
from shared.errors import Permanent
from shared.storage.blobs import blob_key
from testbed.models import ATTENTION, edit_json, tiny_base, tiny_full, tiny_lora
from tests.kit.soak import TIMES
from tests.unit.merger.peft_results import assert_same_bits, load_all, peft_merge

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def quiet(*_told):
    pass


NORMS = {"base": ["norm"], "qwen2": ["norm"], "gpt2": ["ln_f"]}
MLP = {"base": ["up_proj"], "qwen2": ["up_proj"], "gpt2": ["c_fc"]}
BASES = ("base", "qwen2", "gpt2", "gemma3", "qwen3_5")
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


OTHERS = {  # what differs there: layers with biases, and the transposed and joint layers of GPT-2
    "qwen2": ("plain", "saved linear with its bias"),
    "gemma3": ("all linear",),
    "qwen3_5": ("all linear",),  # the small projections of its linear attention, too
    "gpt2": ("plain", "all linear", "DoRA", "ranks and alphas by pattern", "saved linear with its bias"),
}


@pytest.mark.parametrize(
    ("base", "lora"),
    [(base, lora) for base in BASES for lora in LORAS if TIMES > 1 or lora in OTHERS.get(base, LORAS)],
)
def test_equals_pefts_merge_to_the_last_bit(made, make_job, tmp_path, lora, base):
    adapter = tiny_lora(made[base], tmp_path / "lora", **LORAS[lora](base))
    job = make_job(base=base, checkpoint=adapter).run()
    merged = load_all(job.out)
    assert_same_bits(merged, peft_merge(job.base, adapter))
    before = load_all(job.base)
    assert any(not torch.equal(merged[name], before[name]) for name in merged)
    assert job.parity.mean_kl < 0.01
    assert job.parity.mean_kl < job.parity.effect_kl


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_other_widths(make_job, dtype):
    job = make_job(dtype=dtype).run()
    assert_same_bits(load_all(job.out), peft_merge(job.base, job.checkpoint), dtype)


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_untied_embeddings_can_carry_a_lora(made, make_job, tmp_path, module, use_dora):
    adapter = tiny_lora(made["untied"], tmp_path / "lora", target_modules=[*ATTENTION, module], use_dora=use_dora)
    job = make_job(base="untied", checkpoint=adapter).run()
    assert_same_bits(load_all(job.out), peft_merge(job.base, adapter))


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
def test_added_tokens_bring_their_embeddings_and_their_tokenizer(made, make_job, tmp_path, base, settings):
    adapter = tiny_lora(made[base], tmp_path / "lora", added_tokens=3, **settings)
    job = make_job(base=base, checkpoint=adapter).run()
    merged, rows = load_all(job.out), len(AutoTokenizer.from_pretrained(adapter))
    assert rows == json.loads((job.base / "config.json").read_text())["vocab_size"] + 3
    assert_same_bits(merged, peft_merge(job.base, adapter, rows))
    assert job.result["tokenizer"] == "checkpoint"
    assert json.loads((job.out / "config.json").read_text())["vocab_size"] == rows
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (job.out / name).read_bytes() == (adapter / name).read_bytes()
    assert AutoTokenizer.from_pretrained(job.out)("<|extra2|>")["input_ids"] == [rows - 1]
    model = AutoModelForCausalLM.from_pretrained(job.out)
    assert model(torch.tensor([[1, rows - 1]])).logits.shape == (1, 2, rows)
    assert job.result["rendering"] == job.result["expected_rendering"]
    assert job.parity.mean_kl < 0.01


WIDTHS = [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)]


@pytest.mark.parametrize(("stored", "trained"), WIDTHS)
def test_added_tokens_may_be_trained_in_another_precision_than_the_base_has(make_job, tmp_path, stored, trained):
    base = tiny_base(tmp_path / "base", dtype=stored)
    adapter = tiny_lora(base, tmp_path / "lora", dtype=trained, added_tokens=3, save_embeddings=True)
    job = make_job(base=base, checkpoint=adapter).run()
    assert_same_bits(load_all(job.out), peft_merge(base, adapter, rows=262))
    assert job.result["tokenizer"] == "checkpoint"


def test_full_weights_may_have_added_tokens(made, make_job, tmp_path):
    full = tiny_full(made["untied"], tmp_path / "full", added_tokens=3)
    job = make_job(base="untied", checkpoint=full, kind="full").run()
    assert_same_bits(load_all(job.out), load_all(full))
    assert job.result["tokenizer"] == "checkpoint"
    assert json.loads((job.out / "config.json").read_text())["vocab_size"] == 262
    assert job.parity.max_abs_logit_difference == 0.0


def test_a_sharded_base_gives_sharded_weights(make_job, tmp_path, monkeypatch):
    monkeypatch.setattr("services.merger.domain.SMALL_SHARD_BYTES", 10_000)
    base = tiny_base(tmp_path / "sharded", shard_size="20KB")
    assert len(list(base.glob("*.safetensors"))) > 2
    adapter = tiny_lora(base, tmp_path / "lora")
    job = make_job(base=base, checkpoint=adapter).run()
    expected = peft_merge(base, adapter)
    assert_same_bits(load_all(job.out), expected)
    assert len(list(job.out.glob("*.safetensors"))) > 2
    index = json.loads((job.out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(load_all(base))
    loaded = AutoModelForCausalLM.from_pretrained(job.out).state_dict()
    assert all(torch.equal(loaded[name], expected[name].bfloat16()) for name in loaded)


@pytest.mark.parametrize("run_bytes", [264, 1 << 24])  # in the middle of rows; parts of 8 bytes are planned below
def test_large_tensors_are_read_in_parts(made, make_job, tmp_path, monkeypatch, run_bytes):
    monkeypatch.setattr(tensors, "RUN_BYTES", run_bytes)
    adapter = tiny_lora(made["base"], tmp_path / "lora", modules_to_save=["norm"])
    job = make_job(checkpoint=adapter).run()
    assert_same_bits(load_all(job.out), peft_merge(job.base, adapter))


INFOS = st.lists(
    st.tuples(st.sampled_from(["F32", "BF16", "U8"]), st.integers(0, 60), st.booleans()), min_size=1, max_size=12
)


@given(merged=INFOS, run_bytes=st.sampled_from([8, 16, 64, 1024]))
def test_reads_cover_a_file_in_order(merged, run_bytes):
    infos = {
        f"t{i}": domain.TensorInfo(kind, (count,), count * tensors.DTYPES[kind].itemsize)
        for i, (kind, count, _) in enumerate(merged)
    }
    whole = {f"t{i}" for i, (*_, is_whole) in enumerate(merged) if is_whole}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "RUN_BYTES", run_bytes)
        runs = tensors.plan_runs(domain.WeightsFile("f", infos, data_start=8), whole.__contains__)
    spans = [span for run in runs for span in run]
    assert all(runs)
    for name, info in infos.items():
        own_spans = [span for span in spans if span.name == name]
        ends = [0, *(span.start + span.size_bytes for span in own_spans)]
        assert [span.start for span in own_spans] == ends[:-1]
        assert ends[-1] == info.size_bytes
        assert len(own_spans) == 1 or (name not in whole and all(span.size_bytes <= run_bytes for span in own_spans))
    assert list(dict.fromkeys(span.name for span in spans)) == list(infos)
    for run in runs:
        assert sum(span.size_bytes for span in run[:-1]) < run_bytes


def opened(job):
    return inputs.open_inputs(job.store, job.put(), quiet)


def test_what_no_tensor_consumed_is_an_error(make_job):
    job = opened(make_job())
    merge = peft_model.LayerwiseMerge(peft_model.load_unmerged(job.base, job.checkpoint))
    (file,) = job.base_metadata.weights
    last = list(file.tensors)[-1]
    assert last == "model.norm.weight"
    merge._pending.add("model.layers.7.self_attn.q_proj.weight")
    with pytest.raises(streaming.UnmergedModulesError, match=r"model\.layers\.7\.self_attn\.q_proj"):
        streaming.write_merged(
            job.base_folder._store,
            job.base_folder,
            job.base_metadata,
            merge=merge,
            shapes={},
            dtype="bfloat16",
            progress=quiet,
        )


def test_tokenizer_and_template_are_carried_over_byte_by_byte(make_job):
    job = make_job().run()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        assert (job.out / name).read_bytes() == (job.base / name).read_bytes(), name
    assert job.result["tokenizer"] == "base"
    assert job.result["rendering"] == job.result["expected_rendering"]
    assert all(job.result["rendering"].values())


OTHER_TEMPLATE = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"


def test_the_chat_template_of_a_checkpoint_is_its_versions(make_job):
    job = make_job()
    (job.checkpoint / "chat_template.jinja").write_text(OTHER_TEMPLATE)
    job.run()
    assert (job.out / "chat_template.jinja").read_text() == OTHER_TEMPLATE
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (job.out / name).read_bytes() == (job.base / name).read_bytes(), name
    conversation = [{"role": "user", "content": "Hello"}]
    assert AutoTokenizer.from_pretrained(job.out).apply_chat_template(conversation, tokenize=False) == "[user] Hello\n"
    assert job.result["tokenizer"] == "template"
    assert job.result["rendering"] == job.result["expected_rendering"]
    assert_same_bits(load_all(job.out), peft_merge(job.base, job.checkpoint))


def test_the_template_and_end_token_of_a_checkpoints_tokenizer_are_its_versions(make_job):
    job = make_job()
    tokenizer = AutoTokenizer.from_pretrained(job.base)
    tokenizer.chat_template, tokenizer.eos_token = OTHER_TEMPLATE, "<|start|>"
    tokenizer.save_pretrained(job.checkpoint)
    job.run()
    served = AutoTokenizer.from_pretrained(job.out)
    assert (served.chat_template, served.eos_token) == (OTHER_TEMPLATE, "<|start|>")
    ends = json.loads((job.out / "generation_config.json").read_text())["eos_token_id"]
    assert ends == [2, served.eos_token_id], "an answer may also end as the base's"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (job.out / name).read_bytes() == (job.checkpoint / name).read_bytes(), name
    assert job.result["tokenizer"] == "checkpoint"


def test_a_tokenizer_without_a_template_keeps_the_bases(make_job):
    job = make_job()
    tokenizer = AutoTokenizer.from_pretrained(job.base)
    template, tokenizer.chat_template, tokenizer.eos_token = tokenizer.chat_template, None, "<|start|>"
    tokenizer.save_pretrained(job.checkpoint)
    (job.checkpoint / "chat_template.jinja").unlink(missing_ok=True)
    job.run()
    served = AutoTokenizer.from_pretrained(job.out)
    assert (served.chat_template, served.eos_token) == (template, "<|start|>")
    assert job.result["rendering"] == job.result["expected_rendering"]


def test_a_template_that_cannot_be_rendered_is_refused_whoever_has_it(make_job):
    job = make_job()
    (job.checkpoint / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(Permanent, match="TemplateSyntaxError"):
        job.run()


def test_a_lora_of_a_quantised_base_is_merged_into_the_base_and_says_so(make_job):
    job = make_job()
    quantised = "unsloth/Meta-tiny-llama-unsloth-bnb-4bit"
    edit_json(job.checkpoint / "adapter_config.json", base_model_name_or_path=quantised)
    job.run()
    assert job.result["quantised_base"] == quantised
    assert_same_bits(load_all(job.out), peft_merge(job.base, job.checkpoint))


def test_remote_code_does_not_reach_the_merged_model(make_job):
    job = make_job()
    edit_json(job.base / "config.json", auto_map={"AutoModel": "evil.Model"})
    (job.base / "evil.py").write_text("raise SystemExit")
    job.run()
    assert "auto_map" not in json.loads((job.out / "config.json").read_text())
    assert not (job.out / "evil.py").exists()


def test_full_weights_in_the_saved_dtype_pass_unchanged(made, make_job):
    job = make_job(checkpoint="full", kind="full").run()
    assert_same_bits(load_all(job.out), load_all(made["full"]))
    assert job.parity.max_abs_logit_difference == 0.0
    assert job.parity.effect_kl is None


HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("holders", "added_tokens"),
    [("base", 0), ("checkpoint", 0), ("base checkpoint", 0), ("base checkpoint", 3)],
)
def test_a_tied_head_may_be_stored_on_either_side(made, make_job, tmp_path, holders, added_tokens):
    full = tiny_full(made["base"], tmp_path / "full", added_tokens=added_tokens) if added_tokens else "full"
    job = make_job(checkpoint=full, kind="full")
    for folder in (getattr(job, holder) for holder in holders.split()):
        weights = load_file(folder / "model.safetensors")
        weights[HEAD] = weights[EMBEDDING].clone()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    job.run()
    assert_same_bits(load_all(job.out), load_all(job.checkpoint))
    assert job.parity.max_abs_logit_difference == 0.0


NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
TEMPLATES = {
    "plain": CHAT_TEMPLATE,
    "with tokens": "{{ bos_token }}{{ unk_token is defined }}{{ tools is none }}{{ messages | tojson }}{{ eos_token }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
@pytest.mark.parametrize("knows_system", [True, False])
def test_a_conversation_is_rendered_as_the_tokenizer_does_itself(make_job, template, knows_system):
    job = make_job()
    (job.base / "chat_template.jinja").write_text(template if knows_system else NO_SYSTEM + template)
    job.run()
    tokenizer = AutoTokenizer.from_pretrained(job.base)
    turns = list(domain.PROBE_CONVERSATION)[0 if knows_system else 1 :]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    expected = {"prompt_digest": digest_of(text.encode()), "token_ids_digest": digest_of_json(ids)}
    assert job.result["rendering"] == job.result["expected_rendering"] == expected
    assert job.parity.prompts == len(domain.PARITY_PROMPTS)


def test_a_template_that_writes_the_time_is_told_the_same_before_and_after(make_job):
    job = make_job()
    (job.base / "chat_template.jinja").write_text("{{ strftime_now('%H:%M:%S.%f') }}" + CHAT_TEMPLATE)
    job.run()
    assert job.result["rendering"] == job.result["expected_rendering"]


def as_version_4_writes_it(path, *, theta, **changes):
    """Write a configuration as transformers 4 does: the base of the rotation at the top."""
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps({**config, "rope_theta": theta, "rope_scaling": None, **changes}))


def compute_logits(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model(torch.arange(1, 200)[None]).logits


def test_full_weights_keep_their_own_rotation(make_job):
    job = make_job(checkpoint="full", kind="full")
    as_version_4_writes_it(job.base / "config.json", theta=1e4)
    as_version_4_writes_it(job.checkpoint / "config.json", theta=5e5)
    job.run()
    assert json.loads((job.out / "config.json").read_text())["rope_theta"] == 5e5
    assert torch.equal(compute_logits(job.out), compute_logits(job.checkpoint))
    shutil.copy(job.base / "config.json", job.out)
    assert not torch.allclose(compute_logits(job.out), compute_logits(job.checkpoint), atol=0.1)  # it does matter


def test_full_weights_may_have_been_saved_by_another_version_of_the_library_than_the_base(make_job):
    job = make_job(checkpoint="full", kind="full")
    theta = json.loads((job.base / "config.json").read_text())["rope_parameters"]["rope_theta"]
    as_version_4_writes_it(job.base / "config.json", theta=theta)
    edit_json(job.base / "config.json", _attn_implementation_autoset=True)
    edit_json(job.checkpoint / "config.json", unsloth_version="2026.4.2", unsloth_fixed=True)
    job.run()
    assert (job.out / "config.json").read_bytes() == (job.checkpoint / "config.json").read_bytes()
    assert job.parity.max_abs_logit_difference == 0.0


def test_full_weights_keep_their_own_special_tokens(make_job):
    job = make_job(checkpoint="full", kind="full")
    edit_json(job.checkpoint / "config.json", eos_token_id=[2, 1])
    edit_json(job.checkpoint / "generation_config.json", eos_token_id=[2, 1], temperature=0.5)
    job.run()
    for name in ("config.json", "generation_config.json"):
        assert (job.out / name).read_bytes() == (job.checkpoint / name).read_bytes(), name


@pytest.mark.parametrize("end", [2, [2, 1]])
def test_full_weights_without_a_generation_config_take_the_bases_with_their_own_special_tokens(make_job, end):
    job = make_job(checkpoint="full", kind="full")
    edit_json(job.base / "generation_config.json", temperature=0.5)
    edit_json(job.checkpoint / "config.json", eos_token_id=end)
    (job.checkpoint / "generation_config.json").unlink()
    job.run()
    theirs = json.loads((job.base / "generation_config.json").read_text())
    assert json.loads((job.out / "generation_config.json").read_text()) == {**theirs, "eos_token_id": end}


def test_remote_code_of_full_weights_does_not_reach_the_merged_model(make_job):
    job = make_job(checkpoint="full", kind="full")
    for name in ("config.json", "generation_config.json"):
        edit_json(job.checkpoint / name, auto_map={"AutoModel": "evil.Model"})
    (job.checkpoint / "evil.py").write_text("raise SystemExit")
    job.run()
    for name in ("config.json", "generation_config.json"):
        assert "auto_map" not in json.loads((job.out / name).read_text())
    assert not (job.out / "evil.py").exists()


def test_a_loras_own_settings_are_not_the_merged_models(make_job):
    job = make_job()
    for name in ("config.json", "generation_config.json"):
        shutil.copy(job.base / name, job.checkpoint)
        edit_json(job.checkpoint / name, eos_token_id=[2, 1])
    job.run()
    for name in ("config.json", "generation_config.json"):
        assert (job.out / name).read_bytes() == (job.base / name).read_bytes(), name


def test_the_parity_of_full_weights_sees_settings_that_are_not_theirs(make_job):
    job = make_job(checkpoint="full", kind="full")
    as_version_4_writes_it(job.checkpoint / "config.json", theta=5e5)

    def with_the_bases(written):
        config = job.store.put_file(job.base / "config.json", "config.json")
        return replace(written, files=(*(file for file in written.files if file.path != "config.json"), config))

    verification = verified(job, change=with_the_bases).parity
    assert domain.assess_parity(verification, domain.ParityLimits()).code == "parity_failed"


def test_the_merged_configuration_leaves_the_original_unchanged():
    config = {"dtype": "float32", "auto_map": {}, "text_config": {"vocab_size": 259}}
    merged = torch_merge.merged_config(config, domain.Vocabulary(262, 259, included=True), "bfloat16")
    assert merged == {"dtype": "bfloat16", "text_config": {"vocab_size": 262}}
    assert config == {"dtype": "float32", "auto_map": {}, "text_config": {"vocab_size": 259}}


def verified(job, *, change=lambda written: written):
    inputs_ = opened(job)
    checked = torch_checks.check(inputs_)
    written = torch_merge.write(job.store, inputs_, checked, lambda _step, _unit: quiet)
    return verify.verify_stored(job.store, inputs_, checked, change(written), quiet)


def test_parity_sees_a_lora_that_was_not_merged(make_job, monkeypatch):
    monkeypatch.setattr(peft_model.LayerwiseMerge, "_merge", lambda _self, _module, weight: weight)
    verification = verified(make_job()).parity
    assert verification.mean_kl == pytest.approx(verification.effect_kl, rel=0.1)
    assert domain.assess_parity(verification, domain.ParityLimits()).code == "parity_failed"


def test_verification_reads_what_is_stored(made, make_job, tmp_path):
    job = make_job(checkpoint=tiny_lora(made["base"], tmp_path / "lora", seed=99))  # no other test writes these blobs

    def forge(written):
        weights = next(file for file in written.files if file.path == "model.safetensors")
        key = blob_key(weights.digest)
        data = bytearray(job.store.find(key))
        data[-3] ^= 64
        job.store._client.remove_object(bucket_name=job.store.bucket, object_name=key)
        job.store.create(key, bytes(data))
        return written

    with pytest.raises(ArithmeticError, match="other bytes"):
        verified(job, change=forge)


def test_a_base_that_is_not_what_its_manifest_says_is_refused_before_anything_is_given(make_job, store):
    job = make_job()
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
    forged_inputs = inputs.open_inputs(store, replace(put, base=forged), quiet)
    with pytest.raises(Permanent) as caught:
        torch_merge.write(store, forged_inputs, torch_checks.check(forged_inputs), lambda _step, _unit: quiet)
    assert caught.value.code == "digest_mismatch"


@pytest.mark.parametrize("base", ["base", "qwen2", "gpt2"])
def test_a_model_that_reads_its_weights_on_demand_answers_the_same(made, make_job, base):
    job = make_job(base=base)
    opened_job = opened(job)
    reader = tensors.TensorReader(opened_job.base_folder, opened_job.base_metadata, digests_of(opened_job))
    tied = peft_model.tied_modules(peft_model.empty_base(opened_job.base))
    prompts = [torch.tensor([1, 5, 9, 200]), torch.tensor([2, 7])]
    load = verify.through_ties(reader, tied)
    lazy = peft_model.empty_base(opened_job.base)
    layerwise.read_on_demand(lazy, load)
    whole = AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.float32)
    for actual, expected in zip(
        layerwise.compute_logits(lazy, prompts), layerwise.compute_logits(whole, prompts), strict=True
    ):
        assert torch.equal(actual, expected)
    assert all(parameter.device.type == "meta" for parameter in lazy.parameters())


def test_a_lora_with_added_tokens_is_computed_without_reading_the_whole_base(made, make_job, tmp_path):
    settings = {"save_embeddings": True, "modules_to_save": ["norm"]}
    job = opened(make_job(checkpoint=tiny_lora(made["base"], tmp_path / "lora", added_tokens=3, **settings)))
    checked = torch_checks.check(job)
    reader = tensors.TensorReader(job.base_folder, job.base_metadata, digests_of(job), checked.replacements)
    model = peft_model.load_unmerged(job.base, job.checkpoint, checked.vocabulary.rows)
    unread = layerwise.read_on_demand(model, verify.through_ties(reader, checked.tied))
    layerwise.compute_logits(model, checked.prompts)
    assert unread == set(), "else all weights are read into memory"


def digests_of(job):
    merged = {}
    for file in job.base_metadata.weights:
        for _part in tensors.stream_tensors(job.base_folder, file, merged):
            pass
    return merged
