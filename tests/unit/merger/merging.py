"""A merger on fakes."""
# ruff: noqa: ARG002 - fakes take what their ports take

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from contracts.facts import Parity
from contracts.manifests import FileEntry
from contracts.vocabulary import ArtifactRef
from services.merger.app import Merger, ServingProof
from services.merger.ports import Folder, MergeResult, Rendering
from shared.errors import Permanent, Transient
from shared.serving.chat_template_worker import answer
from testbed.factories import base

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
    tokenizer: str = "base"
    rendering: Rendering = RENDERING
    jobs: list = field(default_factory=list)

    def library_versions(self):
        return {"peft": "0.21.2"}

    async def merge(self, job, progress):
        self.log.append("merge")
        self.jobs.append(job)
        return MergeResult(self.files, self.parity, self.tokenizer, self.rendering, RENDERING, peak_rss_bytes=500)


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
    engine = {name: changes.pop(name) for name in ("parity", "files", "tokenizer", "rendering") if name in changes}
    artifacts = FakeArtifacts(**changes)
    return Merger(
        artifacts=artifacts,
        engine=FakeEngine(artifacts.log, **engine),
        proof=ServingProof(artifacts, FakeTemplates()),
        clock=FakeClock(),
    )


def quiet(*_told):
    pass
