"""The training side on a real bus and a real store: the function, the callback, and what goes wrong."""

import asyncio
import json
import os

import pytest

from clients.training import (
    Connection,
    PublishError,
    Run,
    SlipwayCallback,
    publish_checkpoint,
    publish_checkpoint_async,
)
from clients.training.bus import connected
from clients.training.upload import Uploader
from contracts.envelope import Event
from contracts.facts import CheckpointReady
from contracts.manifests import FolderManifest
from contracts.services import INBOX
from shared.messaging.events import parse_event
from shared.storage.blobs import Store
from testbed.factories import policy
from testbed.models import tiny_base, tiny_lora
from tests.kit.checkpoints import put_base
from tests.kit.intake import running_intake

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PREFIX = "s3://slipway/checkpoints/support-bot/uploads/tests-files/"
RUN = Run(
    run_id="run-1",
    data_hash="sha256:" + "a" * 64,
    hyperparameters={"r": 4},
    evals=[{"name": "held-out", "metric": "loss", "value": 1.5, "higher_is_better": False}],
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    base = tiny_base(root / "base")
    return {"base": base, "lora": tiny_lora(base, root / "lora")}


@pytest.fixture(scope="module", autouse=True)
def _intake(nats_server, s3_server):
    with running_intake(nats_server, s3_server):
        yield


@pytest.fixture
def connection(settings) -> Connection:
    return Connection(
        nats_url=settings.nats_url,
        nats_credentials=str(settings.nats_credentials),
        nats_ca=str(settings.nats_ca),
        s3_ca=str(settings.s3_ca),
    )


@pytest.fixture
def store(settings, made):
    store = Store(settings)
    put_base(store, made["base"])
    return store


async def inbox(js) -> list[Event[CheckpointReady]]:
    count = (await js.stream_info(INBOX)).state.messages
    messages = [await js.get_msg(INBOX, number) for number in range(1, count + 1)]
    return [parse_event(CheckpointReady, message.subject, message.data) for message in messages]


async def test_publishes_what_admission_can_read_and_everyone_can_verify(js, connection, store, made, tmp_path):
    calibration = tmp_path / "calibration.jsonl"
    calibration.write_text('{"text": "one"}\n')
    advances = []
    published = await publish_checkpoint_async(
        made["lora"],
        model="support-bot",
        base="acme/tiny-llama",
        run=RUN,
        connection=connection,
        variants=["bf16", "int8"],
        policy=policy().model_dump(mode="json"),
        calibration=calibration,
        progress=lambda done, total: advances.append((done, total)),
    )
    (event,) = await inbox(js)
    assert event.id == published.event_id
    assert not published.duplicate
    fact = event.data
    assert fact.weights.kind == "lora"
    assert fact.weights.ref == published.weights
    assert fact.weights.ref.uri.startswith(PREFIX + "manifests/folder/")
    assert fact.base.digest == put_base(store, made["base"]).digest
    assert (fact.policy, fact.variants) == (policy(), ("bf16", "int8"))
    assert fact.evals[0].value == 1.5
    assert store.get(fact.calibration) == calibration.read_bytes()
    manifest = FolderManifest.model_validate_json(store.get(fact.weights.ref))
    assert {file.path for file in manifest.files} == {"adapter_config.json", "adapter_model.safetensors"}
    store.fetch_files(manifest.files, tmp_path / "back", store.prefix_of(fact.weights.ref))
    name = "adapter_model.safetensors"
    assert (tmp_path / "back" / name).read_bytes() == (made["lora"] / name).read_bytes()
    assert advances[-1] == (manifest.size_bytes, manifest.size_bytes)
    assert [done for done, _ in advances] == sorted(done for done, _ in advances)


async def test_publishing_again_moves_nothing_and_says_nothing_new(js, connection, store, made):
    options = {"model": "support-bot", "base": "acme/tiny-llama@1", "run": RUN, "connection": connection}
    first = await publish_checkpoint_async(made["lora"], **options)
    before = set(store.keys("checkpoints/"))
    second = await asyncio.to_thread(publish_checkpoint, made["lora"], **options)
    assert second.duplicate
    assert (second.event_id, second.weights) == (first.event_id, first.weights)
    assert set(store.keys("checkpoints/")) == before
    third = await publish_checkpoint_async(made["lora"], attempt=2, **options)
    assert third.event_id != first.event_id
    assert len(await inbox(js)) == 2


async def test_the_plain_function_works_inside_a_running_loop(js, connection, store, made):
    publish_checkpoint(made["lora"], model="support-bot", base="acme/tiny-llama", run=RUN, connection=connection)
    assert len(await inbox(js)) == 1


async def test_pickles_beside_the_weights_stay_behind(js, connection, store, made, tmp_path):
    folder = tiny_lora(made["base"], tmp_path / "lora")
    (folder / "optimizer.pt").write_bytes(b"pickle")
    (folder / "training_args.bin").write_bytes(b"pickle")
    async with connected(connection) as publisher:
        ref = await Uploader(connection, "support-bot", publisher).put_folder(folder, lambda _done, _total: None)
    names = {file["path"] for file in json.loads(store.get(ref))["files"]}
    assert not {name for name in names if name.endswith((".pt", ".bin"))}


async def test_an_evaluation_set_that_cannot_be_read_is_not_uploaded(connection, store, made, tmp_path):
    path, before = tmp_path / "set.jsonl", set(store.keys("checkpoints/"))
    options = {"model": "new-bot", "base": "acme/tiny-llama", "run": RUN, "connection": connection, "evaluation": path}
    with pytest.raises(PublishError, match="No such file"):
        await publish_checkpoint_async(made["lora"], **options)
    path.write_text('"fine"\n{"question": "?"}\n')
    with pytest.raises(PublishError, match="line 2: neither"):
        await publish_checkpoint_async(made["lora"], **options)
    assert set(store.keys("checkpoints/")) == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "../other"}, "model name .* is not valid"),
        ({"model": "a" * 300}, "model name .* is not valid"),
        ({"base": "acme/unknown"}, "not imported"),
        ({"base": "acme/tiny-llama@9"}, "not imported"),
        ({"variants": ["int3"]}, "variants"),
        ({"policy": {"gate": []}}, "policy"),
        ({"run": Run(run_id="r", data_hash="md5:1")}, "data_hash"),
        ({"serving": {"tool_praser": "hermes"}}, "setting 'tool_praser' is not known: use context_tokens, "),
        ({"serving": {"context_tokens": 0}}, "serving.context_tokens: Input should be greater"),
    ],
)
async def test_mistakes_show_before_anything_is_uploaded(connection, store, made, changes, says):
    before = set(store.keys("checkpoints/"))
    options = {"model": "new-bot", "base": "acme/tiny-llama", "run": RUN, "connection": connection, **changes}
    with pytest.raises(PublishError, match=says):
        await publish_checkpoint_async(made["lora"], **options)
    assert set(store.keys("checkpoints/")) == before


async def test_weights_as_a_pickle_and_missing_folders_are_refused(connection, store, tmp_path):
    options = {"model": "support-bot", "base": "acme/tiny-llama", "run": RUN, "connection": connection}
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "adapter_model.bin").write_bytes(b"pickle")
    (tmp_path / "empty").mkdir()
    for name, says in (("pickled", "pickle"), ("empty", "holds no safetensors"), ("absent", "does not exist")):
        with pytest.raises(PublishError, match=says):
            await publish_checkpoint_async(tmp_path / name, **options)


async def test_a_bus_or_store_that_does_not_answer_is_said(connection, store, made, tmp_path, monkeypatch):
    from dataclasses import replace

    options = {"model": "support-bot", "base": "acme/tiny-llama", "run": RUN}
    with pytest.raises(PublishError, match=r"bus .* does not answer"):
        await publish_checkpoint_async(
            made["lora"], connection=replace(connection, nats_url="nats://127.0.0.1:9"), **options
        )
    (tmp_path / "no-ca.pem").write_text("no certificate")
    with pytest.raises(PublishError, match="certificate of the object store's authority cannot be read"):
        await publish_checkpoint_async(
            made["lora"], connection=replace(connection, s3_ca=str(tmp_path / "no-ca.pem")), **options
        )
    monkeypatch.setattr("clients.training.upload.FRUITLESS_ROUNDS", 1)
    folder = tiny_lora(made["base"], tmp_path / "new")
    (folder / "adapter_model.safetensors").write_bytes(os.urandom(100))
    with pytest.raises(PublishError, match=r"takes no upload: .*CERTIFICATE_VERIFY_FAILED"):
        await publish_checkpoint_async(folder, connection=replace(connection, s3_ca=None), **options)


async def test_the_callback_publishes_at_the_end_of_training(js, connection, store, made, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM, Trainer, TrainingArguments

    model = get_peft_model(
        LlamaForCausalLM.from_pretrained(made["base"]).float(), LoraConfig(r=2, target_modules=["q_proj"])
    )
    row = {"input_ids": list(range(8)), "labels": list(range(8))}
    callback = SlipwayCallback(
        model="support-bot",
        base="acme/tiny-llama",
        run=Run(run_id="run-9", data_hash=RUN.data_hash),
        connection=connection,
        evaluate=lambda _trained: [{"name": "held-out", "metric": "loss", "value": 2.0, "higher_is_better": False}],
    )
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        seed=5,
        learning_rate=0.01,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=[row] * 8, callbacks=[callback])
    await asyncio.to_thread(trainer.train)
    (event,) = await inbox(js)
    assert event.id == callback.published.event_id
    assert event.data.training.hyperparameters["seed"] == 5
    assert event.data.training.hyperparameters["steps_done"] == 2
    assert event.data.training.framework == "peft"
    assert event.data.training.finished_at is not None
    assert event.data.evals[0].value == 2.0
    assert event.data.weights.kind == "lora"
