"""The tokenizer of a training is saved with an embedding of its own, and only then: added tokens are nowhere else."""

import inspect
import json
import os

import nkeys
import pytest
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments

from clients.training import Connection, PublishError, Run, SlipwayCallback
from clients.training.trained import complete, save

ADDED = "<|tool|>"
SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


class Processor:
    """What a Trainer holds for a model of text and images."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer


@pytest.fixture
def tokenizer():
    """A tokenizer of a base with 40 tokens, and one more."""
    vocabulary = {f"t{number}": number for number in range(40)}
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="t0")), pad_token="t0"
    )
    made.add_tokens([ADDED])
    return made


def grown(tokenizer):
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40, **SIZES))
    model.resize_token_embeddings(len(tokenizer))
    return model


def lora(tokenizer, **more):
    return get_peft_model(grown(tokenizer), LoraConfig(r=2, target_modules=["q_proj"], **more))


def save_all(trained, folder, tokenizer):
    save(trained, folder, None)
    complete(trained, folder, tokenizer)


def saved_tokens(folder):
    path = folder / "tokenizer.json"
    return {each["content"] for each in json.loads(path.read_text())["added_tokens"]} if path.is_file() else None


def test_full_weights_have_the_tokenizer_of_the_training(tokenizer, tmp_path):
    save_all(grown(tokenizer), tmp_path, Processor(tokenizer))
    assert ADDED in saved_tokens(tmp_path)


def test_a_lora_has_it_if_it_includes_the_embedding(tokenizer, tmp_path):
    save_all(lora(tokenizer, modules_to_save=["embed_tokens"]), tmp_path / "with", tokenizer)
    assert ADDED in saved_tokens(tmp_path / "with")
    save_all(lora(tokenizer), tmp_path / "without", tokenizer)
    assert saved_tokens(tmp_path / "without") is None


def test_what_is_no_tokenizer_is_not_saved(tokenizer, tmp_path):
    for number, none in enumerate((None, object())):
        save_all(grown(tokenizer), tmp_path / str(number), none)
        assert saved_tokens(tmp_path / str(number)) is None


@pytest.mark.parametrize("options", [{}, {"tokenizer": False}], ids=["with", "without"])
def test_the_callback_saves_the_tokenizer_that_the_trainer_holds_unless_told_otherwise(options, tokenizer, tmp_path):
    credential = tmp_path / "trainer.cred"
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode()
    credential.write_text(f"# Slipway identity trainer\n{seed}\n")
    callback = SlipwayCallback(
        model="support-bot",
        base="base",
        run=Run(run_id="run-1", data_hash="sha256:" + "a" * 64),
        connection=Connection(nats_url="nats://127.0.0.1:1", nats_credentials=str(credential)),
        **options,
    )
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no"
    )
    names = inspect.signature(Trainer.__init__).parameters
    held = {"processing_class" if "processing_class" in names else "tokenizer": tokenizer}
    rows = [{"input_ids": list(range(8)), "labels": list(range(8)), "attention_mask": [1] * 8}] * 8
    trainer = Trainer(model=grown(tokenizer), args=arguments, train_dataset=rows, callbacks=[callback], **held)
    with pytest.raises(PublishError, match="does not answer"):
        trainer.train()
    (kept,) = tmp_path.glob("slipway-checkpoint-*")
    assert (saved_tokens(kept) is not None and ADDED in saved_tokens(kept)) == (not options)
