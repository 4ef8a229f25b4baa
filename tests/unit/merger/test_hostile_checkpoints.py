"""Hostile files of a checkpoint that libraries read: configurations and tokenizers. Each is accepted or rejected.

Chat templates, which run in a process of their own, have their test in `tests/unit/fuzz`.
"""

import json
import random
import shutil

import pytest

from services.merger import domain
from services.merger.adapters import peft_model, tokenizers, torch_checks
from services.merger.adapters.inputs import MergeInputs, open_inputs
from services.merger.rejections import raise_rejection
from shared.errors import Permanent
from tests.kit.mutation import attack, code_of, forget_largest_memory, hostile_json, largest_memory

pytestmark = pytest.mark.filterwarnings("ignore")

LIMIT_S = 30.0
"""Processor seconds; the longest that were seen are below 0.2."""


@pytest.fixture
def checkpoint_with(make_job):
    """Return the files of a good checkpoint, and a function that checks it with another content of one of them."""

    def build(kind, check, *names):
        job = make_job(checkpoint=kind, kind=kind)
        base = torch_checks.build_base(job.base)
        for name in names:
            if not (job.checkpoint / name).exists():
                shutil.copy(job.base / name, job.checkpoint / name)
        good = {name: (job.checkpoint / name).read_bytes() for name in names}

        def take(name: str, data: bytes) -> str:
            (job.checkpoint / name).write_bytes(data)
            shutil.rmtree(job.job.scratch_dir, ignore_errors=True)
            try:
                check(open_inputs(job.store, job.put(), lambda *_: None), *base)
            except Permanent as error:
                return code_of(error)
            finally:
                (job.checkpoint / name).write_bytes(good[name])
            return "accepted"

        for name in names:
            assert take(name, good[name]) == "accepted"
        return good, take

    return build


def check_full(inputs: MergeInputs, model, rows, _tied) -> None:
    expected = peft_model.expected_tensors(model)
    torch_checks.check_full(inputs, rows, expected, torch_checks.find_ignored(inputs, model, expected))


def check_lora(inputs: MergeInputs, _model, rows, tied) -> None:
    torch_checks.check_lora(inputs, rows, tied)


def check_tokenizers(inputs: MergeInputs, _model, rows, _tied) -> None:
    size, comparison = torch_checks.compare_tokenizers(inputs)
    raise_rejection(domain.assess_vocabulary(comparison, size, domain.Vocabulary(rows, rows, included=False)))
    tokenizer = tokenizers.load_tokenizer(inputs.checkpoint)
    for prompt in domain.PARITY_PROMPTS:
        assert tokenizer(prompt, return_tensors="pt")["input_ids"].shape[0] == 1


def attack_files(good, take, inputs):
    """Attack these files in turn; the first byte of an input says which one."""
    names = tuple(good)
    drawers = {name: hostile_json([json.loads(data)]) for name, data in good.items()}

    def draw(random_: random.Random) -> bytes:
        number = random_.randrange(len(names))
        return bytes([number]) + drawers[names[number]](random_)

    return attack(draw, lambda data: take(names[data[0]], data[1:]), inputs=inputs, limit_s=LIMIT_S)


def test_hostile_configurations_of_full_weights_are_accepted_or_rejected(checkpoint_with):
    good, take = checkpoint_with("full", check_full, domain.MODEL_CONFIG, domain.GENERATION_CONFIG)
    outcome = attack_files(good, take, 100)
    assert min(outcome.counts["accepted"], outcome.counts["base_mismatch"], outcome.counts["truncated_weights"]) > 3


def test_hostile_configurations_of_a_lora_are_accepted_or_rejected(checkpoint_with):
    good, take = checkpoint_with("lora", check_lora, domain.ADAPTER_CONFIG)
    outcome = attack_files(good, take, 100)
    assert min(outcome.counts["accepted"], outcome.counts["adapter_keys_mismatch"]) > 3


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokenizer.json", lambda whole: whole["model"]["vocab"].update(much=2**31)),
        ("tokenizer.json", lambda whole: whole["added_tokens"][0].update(id=2**31)),
        ("tokenizer_config.json", lambda whole: whole.update(added_tokens_decoder={str(2**31): {"content": "much"}})),
    ],
)
def test_an_id_that_would_take_gigabytes_is_rejected_before_a_library_reads_it(checkpoint_with, name, change):
    good, take = checkpoint_with("full", check_tokenizers, "tokenizer.json", "tokenizer_config.json")
    whole = json.loads(good[name])
    change(whole)
    before = forget_largest_memory()
    assert take(name, json.dumps(whole).encode()) == "tokenizer_changed"
    assert largest_memory() - before < 200 << 20


@pytest.mark.parametrize(
    "change",
    [
        {"r": 50_000_000},
        {"r": 2**42},
        {"r": 10**30},
        {"rank_pattern": {"q_proj": 2**42}},
    ],
)
def test_a_rank_that_would_take_gigabytes_is_rejected_without_them(checkpoint_with, change):
    good, take = checkpoint_with("lora", check_lora, domain.ADAPTER_CONFIG)
    whole = json.loads(good[domain.ADAPTER_CONFIG]) | change
    before = forget_largest_memory()
    assert take(domain.ADAPTER_CONFIG, json.dumps(whole).encode()) in {"adapter_keys_mismatch", "shape_mismatch"}
    assert largest_memory() - before < 200 << 20


def test_hostile_tokenizers_are_accepted_or_rejected(checkpoint_with):
    good, take = checkpoint_with("full", check_tokenizers, "tokenizer.json", "tokenizer_config.json")
    outcome = attack_files(good, take, 150)
    assert min(outcome.counts["accepted"], outcome.counts["tokenizer_changed"]) > 3
