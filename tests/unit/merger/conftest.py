"""Tiny bases and LoRAs on them, made once, and a real store; each test gets copies that it may break."""

import asyncio
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contracts.facts import BaseModelRef, Parity
from contracts.manifests import FileEntry
from services.merger.adapters.rendering import LIMIT_S, FixedClock, Render, render_by
from services.merger.ports import Folder, MergeJob
from shared.serving.chat_templates import ChatTemplates
from shared.storage.blobs import Store
from testbed.servers import S3Server, connection, running

DIGEST = "sha256:" + "0" * 64
BASE_REF = BaseModelRef(name="acme/tiny-llama", revision="1", uri="s3://slipway/bases/x", digest=DIGEST)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Folders that no test may change."""
    from testbed.models import tiny_base, tiny_full, tiny_gemma3, tiny_gpt2, tiny_lora, tiny_qwen2, tiny_qwen3_5

    root = tmp_path_factory.mktemp("models")
    base = tiny_base(root / "base")
    return {
        "base": base,
        "untied": tiny_base(root / "untied", tied=False),
        "qwen2": tiny_base(root / "qwen2", config=tiny_qwen2()),
        "gpt2": tiny_base(root / "gpt2", config=tiny_gpt2()),
        "gemma3": tiny_base(root / "gemma3", config=tiny_gemma3()),
        "qwen3_5": tiny_base(root / "qwen3_5", config=tiny_qwen3_5()),
        "lora": tiny_lora(base, root / "lora"),
        "full": tiny_full(base, root / "full"),
    }


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A real store."""
    folder = tmp_path_factory.mktemp("store")
    with running(S3Server(folder)) as server:
        yield Store(connection(None, server, folder))


@pytest.fixture(scope="session")
def render():
    """Render in one child process for all tests: to start three takes a third of a merge."""
    clock = FixedClock(datetime(2026, 11, 30, tzinfo=UTC))
    templates = ChatTemplates(clock, limit_s=LIMIT_S)
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:

        def render(template, variables, conversations, now):
            clock.instant = now
            return runner.run(render_by(templates, template, variables, conversations))

        yield render
        runner.run(templates.close())


@dataclass
class Job:
    """A merge order on local copies of a base and a checkpoint, which are put into the store when it is done."""

    store: Store
    job: MergeJob
    base: Path
    checkpoint: Path
    out: Path
    render: Render | None
    files: tuple[FileEntry, ...] = ()
    result: dict | None = None

    def put(self) -> MergeJob:
        """Put both folders into the store as they are now."""
        folders = {
            name: Folder(DIGEST, self.store.put_folder(getattr(self, name), f"{name}s/").files, f"{name}s/")
            for name in ("base", "checkpoint")
        }
        return replace(self.job, **folders)

    def run(self) -> "Job":
        """Merge, and fetch what was made to `out`."""
        from services.merger.adapters import worker

        shutil.rmtree(self.job.scratch_dir, ignore_errors=True)
        self.result = worker.merge(self.store, self.put(), self.render)
        self.files = tuple(FileEntry.model_validate(file) for file in self.result["files"])
        self.store.fetch_files(self.files, self.out)
        return self

    @property
    def parity(self) -> Parity:
        return Parity.model_validate(self.result["parity"])


@pytest.fixture
def make_job(made, store, render, tmp_path):
    """Make a job on copies of a base and a checkpoint."""

    def make(*, checkpoint="lora", base="base", kind="lora", dtype="bfloat16", hyperparameters=None) -> Job:
        folders = {}
        for role, name in (("base", base), ("checkpoint", checkpoint)):
            source = made[name] if isinstance(name, str) else name
            folders[role] = tmp_path / f"job-{role}"
            shutil.copytree(source, folders[role])
        nothing = Folder(DIGEST, (), "")
        job = MergeJob(
            kind=kind,
            base_ref=BASE_REF,
            hyperparameters=hyperparameters or {},
            base=nothing,
            checkpoint=nothing,
            scratch_dir=tmp_path / "scratch",
            dtype=dtype,
        )
        return Job(store, job, **folders, out=tmp_path / "out", render=render)

    return make
