"""Hostile headers of safetensors, and hostile configurations: what our own code reads before any library does."""

import json
import random

from contracts.facts import BaseModelRef
from services.merger import domain
from services.merger.adapters.inputs import reject_by_headers
from services.merger.adapters.safetensors_header import LENGTH_BYTES, read_config, read_weights, write_header
from services.merger.domain import FolderMetadata, TensorInfo
from services.merger.ports import Folder, MergeJob
from shared.errors import Permanent
from tests.kit.mutation import attack, code_of, damage, hostile_json
from tests.kit.weights import OneFile

TENSORS = {
    "model.embed_tokens.weight": TensorInfo("BF16", (8, 4), 64),
    "model.norm.weight": TensorInfo("F32", (4,), 16),
    "q.lora_A.weight": TensorInfo("F16", (2, 4), 16),
}
GOOD = write_header(TENSORS) + bytes(96)
HEADER = json.loads(GOOD[LENGTH_BYTES:-96])
DIGEST = "sha256:" + "0" * 64


def test_hostile_headers_are_read_or_a_problem():
    draw_header = hostile_json([HEADER])

    def draw(random_: random.Random) -> bytes:
        if random_.randrange(2):
            return damage(random_, GOOD)
        header = draw_header(random_)
        return len(header).to_bytes(LENGTH_BYTES, "little") + header + bytes(96)

    def take(data: bytes) -> str:
        file = read_weights(OneFile(data), "model.safetensors")
        if file.problem:
            assert len(file.problem) < 2_000
            file.problem.encode()
            return "problem"
        assert sum(info.size_bytes for info in file.tensors.values()) + file.data_start == len(data)
        return "read"

    outcome = attack(draw, take, inputs=2_000)
    assert outcome.counts["read"] > 20
    assert outcome.counts["problem"] > 1_000


ADAPTER = {
    "peft_type": "LORA",
    "base_model_name_or_path": "acme/tiny-llama",
    "r": 8,
    "lora_alpha": 16,
    "bias": "none",
    "target_modules": ["q_proj"],
    "rank_pattern": {},
    "use_rslora": False,
    "init_lora_weights": True,
    "layer_replication": None,
}
INDEX = {"metadata": {"total_size": 96}, "weight_map": {"model.norm.weight": "model.safetensors"}}


def test_hostile_adapter_configurations_are_read_or_refused(tmp_path):
    weights = (read_weights(OneFile(GOOD), "model.safetensors"),)
    base = FolderMetadata({domain.MODEL_CONFIG: 2, domain.WEIGHTS: len(GOOD)}, weights, {"model_type": "llama"})
    nothing = Folder(DIGEST, (), "")
    ref = BaseModelRef(name="acme/tiny-llama", revision="1", uri="s3://slipway/bases/x", digest=DIGEST)
    job = MergeJob("lora", ref, {"r": 8, "lora_alpha": 16}, nothing, nothing, tmp_path, "bfloat16")
    path = tmp_path / domain.ADAPTER_CONFIG

    def take(data: bytes) -> str:
        path.write_bytes(data)
        checkpoint = FolderMetadata({}, weights, read_config(path))
        try:
            reject_by_headers(job, base, checkpoint)
        except Permanent as error:
            return code_of(error)
        return "read"

    outcome = attack(hostile_json([ADAPTER]), take, inputs=1_000)
    assert outcome.counts["read"] > 20
    assert {"truncated_weights", "unsupported_adapter", "hyperparameters_mismatch"} < set(outcome.counts)


def test_hostile_indices_of_weights_are_read_or_refused(tmp_path):
    sizes = {"model.safetensors": 10, "model-2.safetensors": 10}
    path = tmp_path / domain.WEIGHTS_INDEX

    def take(data: bytes) -> str:
        path.write_bytes(data)
        rejection = domain.assess_index(read_config(path), sizes)
        return (
            "read" if rejection is None else code_of(Permanent(rejection.code, rejection.reason, **rejection.details))
        )

    outcome = attack(hostile_json([INDEX]), take, inputs=1_000)
    assert outcome.counts["read"] > 20
    assert outcome.counts["truncated_weights"] + outcome.counts["artifact_not_found"] > 300
