"""The merger's order of steps, with fakes at its ports."""
# ruff: noqa: ARG002 - fakes take what their ports take

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contracts.facts import Parity
from contracts.manifests import FileEntry
from contracts.vocabulary import ArtifactRef
from services.merger.app import Merger
from services.merger.ports import Folder, MergeResult, Rendering
from services.merger.serving_proof import ServingProof
from shared.errors import Permanent, Transient
from shared.serving.chat_template_worker import answer
from testbed.factories import base
from tests.kit.checkpoints import opened

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
REF = ArtifactRef(uri="s3://slipway/checkpoints/support-bot/manifests/folder/a.json", digest=DIGEST, size_bytes=9)
RENDERING = Rendering(DIGEST, OTHER)
PARITY = Parity(prompts=8, max_abs_logit_difference=2.0, mean_kl=0.005, top1_agreement_ratio=0.95, effect_kl=0.3)


def entry(path: str, digest: str = DIGEST) -> FileEntry:
    return FileEntry(path=path, digest=digest, size_bytes=100)


@dataclass
class FakeArtifacts:
    """Remembers what was asked, in order."""

    base_digest: str = base().digest
    checkpoint: tuple[FileEntry, ...] = (entry("adapter_config.json"), entry("adapter_model.safetensors"))
    log: list[str] = field(default_factory=list)
    committed: dict[str, tuple] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def find_merged(self, output_key):
        self.log.append("find")
        return self.committed.get(output_key)

    def open_base(self, _base):
        return Folder(self.base_digest, (entry("model.safetensors", OTHER), entry("tokenizer.json")), "")

    def open_folder(self, ref, _progress):
        return Folder(ref.digest, self.checkpoint, "checkpoints/support-bot/")

    def read_texts(self, folder, names):
        return {name: text for name, text in self.texts.items() if name in names}

    def commit(self, manifest):
        self.log.append("commit")
        return self.committed.setdefault(manifest.output_key, (manifest, REF))

    @asynccontextmanager
    async def scratch_dir(self, name):
        yield Path("scratch")


@dataclass
class FakeEngine:
    log: list[str]
    parity: Parity = PARITY
    files: tuple[FileEntry, ...] = (entry("model.safetensors"), entry("tokenizer.json"))
    own_tokenizer: bool = False
    rendering: Rendering = RENDERING
    jobs: list = field(default_factory=list)

    def library_versions(self):
        return {"peft": "0.21.2"}

    async def merge(self, job, progress):
        self.log.append("merge")
        self.jobs.append(job)
        return MergeResult(self.files, self.parity, self.own_tokenizer, self.rendering, RENDERING, peak_rss_bytes=500)


class FakeTemplates:
    """Templates in Jinja's own environment, without a process: none of these tests has a hostile one."""

    busy = False
    """No processor is free for them."""

    async def render_with(self, template, variables):
        if self.busy:
            raise Transient("engine_failed", "The machine is busy.")
        reply = answer({"template": template, "variables": variables, "now": "2026-11-24T00:00:00+00:00"})
        if "text" not in reply:
            raise Permanent("bad_request" if "rejected" in reply else "engine_failed", str(reply))
        return reply["text"]

    async def variables_of(self, template):
        return frozenset(answer({"template": template})["variables"])


class FakeClock:
    def now(self):
        return datetime(2026, 11, 24, tzinfo=UTC)

    def monotonic(self):
        return 1.0


def merger(**changes) -> Merger:
    engine = {name: changes.pop(name) for name in ("parity", "files", "own_tokenizer", "rendering") if name in changes}
    artifacts = FakeArtifacts(**changes)
    return Merger(
        artifacts=artifacts,
        engine=FakeEngine(artifacts.log, **engine),
        proof=ServingProof(artifacts, FakeTemplates()),
        clock=FakeClock(),
    )


def quiet(*_told):
    pass


ORDER = opened(base(), REF).data


async def test_commits_last_and_after_the_stored_bytes_were_verified():
    use_case = merger()
    manifest, ref = await use_case.merge(ORDER, quiet)
    assert use_case.artifacts.log == ["find", "merge", "commit"]
    assert (manifest.peak_rss_bytes, manifest.weights_bytes) == (500, 100)
    assert manifest.parity == PARITY.model_copy(update={"rendered_token_ids_digest": OTHER})
    assert manifest.rendered_prompt_digest == DIGEST
    assert use_case.engine.jobs[0].hyperparameters == ORDER.training.hyperparameters
    assert ref == REF


async def test_what_is_committed_is_only_said_again():
    use_case = merger()
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
        ({"own_tokenizer": True}, "tokenizer_changed", "merge"),
        ({"rendering": Rendering(OTHER, OTHER)}, "tokenizer_changed", "merge"),
        ({"rendering": Rendering(DIGEST, DIGEST)}, "tokenizer_changed", "merge"),
    ],
)
async def test_what_is_refused_is_never_committed(changes, code, last_step):
    use_case = merger(**changes)
    with pytest.raises(Permanent) as caught:
        await use_case.merge(ORDER, quiet)
    assert caught.value.code == code
    assert use_case.artifacts.log[-1] == last_step


async def test_a_checkpoints_own_tokenizer_is_the_one_that_must_be_there():
    own = (entry("adapter_config.json"), entry("adapter_model.safetensors"), entry("tokenizer.json", OTHER))
    made = (entry("model.safetensors"), entry("tokenizer.json", OTHER))
    use_case = merger(checkpoint=own, files=made, own_tokenizer=True)
    await use_case.merge(ORDER, quiet)
    assert use_case.artifacts.log[-1] == "commit"
