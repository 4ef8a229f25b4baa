"""The merger's order of steps, with fakes at its ports."""

import contextlib
import json
from typing import Any

import pytest

from services.merger.ports import Rendering
from shared.errors import Permanent
from testbed.factories import base
from tests.kit.checkpoints import opened
from tests.unit.merger.merging import DIGEST, OTHER, PARITY, REF, entry, merger, quiet

ORDER = opened(base(), REF).data


async def test_commits_last_and_after_the_stored_bytes_were_verified():
    use_case: Any = merger()
    manifest, ref = await use_case.merge(ORDER, quiet)
    assert use_case.artifacts.log == ["find", "merge", "commit"]
    assert (manifest.peak_rss_bytes, manifest.weights_bytes) == (500, 100)
    assert manifest.parity == PARITY
    assert manifest.rendered_prompt_digest == DIGEST
    assert use_case.engine.jobs[0].hyperparameters == ORDER.training.hyperparameters
    assert ref == REF


async def test_what_is_committed_is_only_said_again():
    use_case: Any = merger()
    first = await use_case.merge(ORDER, quiet)
    use_case.artifacts.log.clear()
    assert await use_case.merge(opened(base(), REF).data, quiet) == first
    assert use_case.artifacts.log == ["find"]


@pytest.mark.parametrize(
    ("changes", "code", "last_step"),
    [
        ({"base_digest": OTHER}, "base_mismatch", "find"),
        ({"checkpoint": (entry("adapter_model.bin"),)}, "pickle_refused", "find"),
        ({"parity": PARITY.model_copy(update={"mean_kl": 1.0})}, "parity_failed", "merge"),
        ({"files": (entry("model.safetensors"), entry("tokenizer.json", OTHER))}, "tokenizer_changed", "merge"),
        ({"tokenizer": "checkpoint"}, "tokenizer_changed", "merge"),
        ({"rendering": Rendering(OTHER, OTHER)}, "tokenizer_changed", "merge"),
        ({"rendering": Rendering(DIGEST, DIGEST)}, "tokenizer_changed", "merge"),
    ],
)
async def test_what_is_refused_is_never_committed(changes, code, last_step):
    use_case: Any = merger(**changes)
    with pytest.raises(Permanent) as caught:
        await use_case.merge(ORDER, quiet)
    assert caught.value.code == code
    assert use_case.artifacts.log[-1] == last_step


async def test_a_checkpoints_own_template_replaces_that_of_the_base_only():
    template = entry("chat_template.jinja", OTHER)
    own = (entry("adapter_config.json"), entry("adapter_model.safetensors"), template)
    for files, step in (((entry("tokenizer.json"), template), "commit"), ((entry("tokenizer.json"),), "merge")):
        use_case: Any = merger(checkpoint=own, files=(entry("model.safetensors"), *files), tokenizer="template")
        with contextlib.nullcontext() if step == "commit" else pytest.raises(Permanent):
            await use_case.merge(ORDER, quiet)
        assert use_case.artifacts.log[-1] == step


async def test_a_checkpoints_own_tokenizer_is_the_one_that_must_be_there():
    own = (entry("adapter_config.json"), entry("adapter_model.safetensors"), entry("tokenizer.json", OTHER))
    made = (entry("model.safetensors"), entry("tokenizer.json", OTHER))
    use_case: Any = merger(checkpoint=own, files=made, tokenizer="checkpoint")
    await use_case.merge(ORDER, quiet)
    assert use_case.artifacts.log[-1] == "commit"


ADAPTER = ORDER.model_copy(update={"policy": ORDER.policy.model_copy(update={"serve": "adapter"})})


@pytest.mark.parametrize(
    ("config", "changes", "named"),
    [
        ({}, {}, None),
        ({"modules_to_save": ["lm_head"]}, {}, "modules_to_save"),
        ({"use_dora": True}, {}, "use_dora"),
        ({}, {"own": True}, "chat template"),
    ],
)
async def test_a_lora_that_no_engine_serves_as_an_adapter_is_refused_also_if_it_was_merged_before(
    config, changes, named
):
    template = entry("chat_template.jinja", OTHER)
    files = (entry("adapter_config.json"), entry("adapter_model.safetensors"))
    made = (entry("model.safetensors"), entry("tokenizer.json"))
    own = {"checkpoint": (*files, template), "files": (*made, template), "tokenizer": "template"} if changes else {}
    use_case: Any = merger(texts={"adapter_config.json": json.dumps(config)}, **own)
    await use_case.merge(ORDER, quiet)
    with contextlib.nullcontext() if named is None else pytest.raises(Permanent) as caught:
        await use_case.merge(ADAPTER, quiet)
    if named is not None:
        assert caught.value.code == "unsupported_adapter"
        assert named in caught.value.reason
        assert "serve: merged" in caught.value.reason
