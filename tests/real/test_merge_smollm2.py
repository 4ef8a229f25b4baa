"""The real SmolLM2: converted from its GGUF, a LoRA on all its linear layers, merged by the real service."""

import time

import pytest
import torch
from safetensors.torch import load_file

from contracts.facts import CheckpointMerged
from contracts.manifests import MergedManifest
from shared.messaging.bus import publish_event
from shared.storage.blobs import Store
from testbed.services import running_service, wait_for_fact
from testbed.stack import ROOT
from tests.kit.checkpoints import opened, put_base, put_folder

pytestmark = [
    pytest.mark.real,
    pytest.mark.full,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),
]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def answer(model, tokenizer, question: str) -> str:
    turn = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=16, do_sample=False)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def lora_on(base, folder):
    """Save a LoRA on every linear layer, with values of the size that training gives."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(4)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(r=8, lora_alpha=16, target_modules=LINEAR, task_type="CAUSAL_LM"),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.004)
    model.save_pretrained(folder)
    return folder


def test_the_converted_base_reads_and_answers_as_published(smollm2):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    turn = [{"role": "user", "content": "Hi"}]
    rendered = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert rendered.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert rendered.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer(rendered)["input_ids"][:4] == [1, 9690, 198, 2683]
    assert tokenizer.tokenize("1234 apples") == ["1", "2", "3", "4", "Ġapples"]
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert "Paris" in answer(model, tokenizer, "What is the capital of France?")


def test_the_demos_chat_template_renders_conversations_without_tools_as_the_models_own(smollm2):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    template = (ROOT / "examples/smollm2/chat_template.jinja").read_text()
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi\n"}]
    turns += [{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Bye"}]
    for talk in (turns, turns[1:], turns[:1], turns[1:2], [turns[1], turns[0]]):
        for prompt in (True, False):
            own = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=prompt)
            assert own == tokenizer.apply_chat_template(
                talk, tokenize=False, add_generation_prompt=prompt, chat_template=template
            )


def test_the_base_is_imported_with_another_chat_template(smollm2, tmp_path):
    from examples.smollm2.base import save_smollm2

    save_smollm2(tmp_path / "base", chat_template="{{ messages[0].content }}")
    assert (tmp_path / "base/chat_template.jinja").read_text() == "{{ messages[0].content }}"
    differing = {
        path.name for path in smollm2.iterdir() if path.read_bytes() != (tmp_path / "base" / path.name).read_bytes()
    }
    assert differing == {"chat_template.jinja"}


async def test_the_service_merges_it_bit_by_bit_like_peft(js, settings, smollm2, tmp_path, record_property):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter = lora_on(smollm2, tmp_path / "lora")
    store = Store(settings)
    base = put_base(store, smollm2, "smollm2-135m-instruct", "test")
    order = opened(base, put_folder(store, adapter, "checkpoints/support-bot/"))
    started = time.monotonic()
    with running_service("services.merger.main", settings):
        await publish_event(js, order)
        (event,) = await wait_for_fact(js, CheckpointMerged, timeout_s=300)
    record_property("wall_s", time.monotonic() - started)
    merged = event.data
    print(f"merged in {merged.duration_s:.1f} s, {merged.parity}")
    assert merged.parity.mean_kl < 0.02
    assert merged.parity.top1_agreement_ratio > 0.9
    assert merged.parity.effect_kl > 4 * merged.parity.mean_kl

    manifest = MergedManifest.model_validate_json(store.get(merged.manifest))
    store.fetch_files(manifest.files, tmp_path / "merged")
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    whole = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    expected = PeftModel.from_pretrained(whole, str(adapter)).merge_and_unload(safe_merge=True).state_dict()
    assert tensors.keys() == set(expected) - {"lm_head.weight"}
    assert all(torch.equal(tensor, expected[name].bfloat16()) for name, tensor in tensors.items())
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "merged" / name).read_bytes() == (smollm2 / name).read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert answer(
        AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), tokenizer, "What is the capital of France?"
    )
