"""A mistake that is there before a training ends it before the first step; weights that cannot be published are kept."""

import logging
import os
import re

import nkeys
import pytest
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from clients.training import Connection, PublishError, Run, SlipwayCallback, publish_trained

RUN = Run(run_id="run-1", data_hash="sha256:" + "a" * 64)
ROW = {"input_ids": list(range(8)), "labels": list(range(8))}


def model():
    sizes = {"vocab_size": 64, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2))


@pytest.fixture
def nowhere(tmp_path):
    """A valid credential for a bus that does not answer."""
    path = tmp_path / "trainer.cred"
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode()
    path.write_text(f"# Slipway identity trainer\n{seed}\n")
    return Connection(nats_url="nats://127.0.0.1:1", nats_credentials=str(path))


def options(connection, **more):
    return {"model": "support-bot", "base": "base", "run": RUN, "connection": connection, **more}


def train(folder, callback):
    """Train one step; return the number of steps done, and what the training raised."""
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no"
    )
    trainer = Trainer(model=model(), args=arguments, train_dataset=[ROW] * 8, callbacks=[callback])
    with pytest.raises(PublishError) as caught:
        trainer.train()
    return trainer.state.global_step, str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"connection": Connection()}, "without a credential that names its publisher"),
        ({"connection": Connection(nats_credentials="no-such-file")}, "credentials .* cannot be read"),
        ({"model": "../other"}, "model name .* is not valid"),
        ({"policy": {"gate": []}}, "policy"),
        ({"variants": ["int3"]}, "variants"),
        ({"serving": {"tool_praser": "hermes"}}, "setting 'tool_praser' is not known"),
        ({"run": Run(run_id="r", data_hash="md5:1")}, "data_hash"),
        ({"evaluation": "no-such.jsonl"}, "evaluation set no-such.jsonl is not valid"),
        ({"calibration": "no-such.jsonl"}, "calibration set no-such.jsonl cannot be read"),
    ],
)
def test_a_mistake_ends_the_training_before_its_first_step(changes, says, nowhere, tmp_path):
    steps, error = train(tmp_path / "out", SlipwayCallback(**{**options(nowhere), **changes}))
    assert steps == 0
    assert re.search(says, error)
    assert "kept" not in error


def test_weights_that_the_bus_did_not_take_are_in_the_output_folder_of_the_trainer(nowhere, tmp_path):
    steps, error = train(tmp_path / "out", SlipwayCallback(**options(nowhere)))
    assert steps == 1
    (kept,) = (tmp_path / "out").glob("slipway-checkpoint-*")
    assert f"does not answer: publish again later. The checkpoint is kept in {kept}: publish it with" in error
    assert (kept / "model.safetensors").is_file()


def test_without_a_folder_to_keep_them_in_they_stay_among_the_temporary_files(nowhere, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(PublishError, match="The checkpoint is kept in"):
        publish_trained(model(), **options(nowhere))
    (kept,) = tmp_path.glob("slipway-checkpoint-*")
    assert (kept / "model.safetensors").is_file()


def test_an_evaluation_that_fails_costs_no_weights(nowhere, tmp_path, caplog):
    def evaluate(_trained):
        raise ValueError("no such metric")

    with pytest.raises(ValueError, match=r"^no such metric$"), caplog.at_level(logging.ERROR, "slipway_client"):
        publish_trained(model(), evaluate=evaluate, kept_in=tmp_path / "out", **options(nowhere))
    (kept,) = (tmp_path / "out").glob("slipway-checkpoint-*")
    assert (kept / "model.safetensors").is_file()
    assert str(kept) in caplog.text


def test_a_model_that_cannot_be_saved_leaves_no_folder(nowhere, tmp_path):
    from torch.nn import Linear

    with pytest.raises(PublishError, match="has no save_pretrained"):
        publish_trained(Linear(2, 2), kept_in=tmp_path / "out", **options(nowhere))
    assert list((tmp_path / "out").iterdir()) == []


class Unsaved:
    """A tokenizer that cannot be saved."""

    def get_vocab(self):
        return {}

    def save_pretrained(self, folder):
        raise OSError(f"no space left for {folder}")


def test_a_tokenizer_that_cannot_be_saved_loses_no_weights(nowhere, tmp_path, caplog):
    with pytest.raises(OSError, match="no space left"), caplog.at_level(logging.ERROR, "slipway_client"):
        publish_trained(model(), tokenizer=Unsaved(), kept_in=tmp_path, **options(nowhere))
    (folder,) = tmp_path.glob("slipway-checkpoint-*")
    assert (folder / "model.safetensors").is_file()
    assert str(folder) in caplog.text
