"""Uploads step by step, on the fake of the store: what is asked for, sent, verified and refused."""

import hashlib

from contracts.manifests import BaseManifest
from contracts.storage.uploads import PART_BYTES, AnnouncedFile, UploadRequest
from contracts.teams import Team, TeamQuota
from contracts.vocabulary import ArtifactRef
from services.registry.domain.uploads import blob_key
from services.registry.uploads import Intake
from tests.kit.fakes_registry import START
from tests.kit.fakes_uploads import FakeUploads

MODEL = "support-bot"


def file_of(data: bytes, name="adapter_model.safetensors") -> AnnouncedFile:
    return AnnouncedFile(path=name, digest=f"sha256:{hashlib.sha256(data).hexdigest()}", size_bytes=len(data))


LARGE = AnnouncedFile(
    path="model.safetensors",
    digest="sha256:" + "c" * 64,
    size_bytes=PART_BYTES + 1,
    parts=("sha256:" + "d" * 64, file_of(b"x").digest),
)


class World:
    def __init__(self, quota=None):
        self.store = FakeUploads()
        teams = (Team(name="support", models=(MODEL,), members=("pia",), quota=TeamQuota(stored_bytes=quota)),)
        self.intake = Intake(self.store, self.sizes, lambda: teams if quota is not None else ())

    async def sizes(self, model):
        below = f"checkpoints/{model}/"
        stored = {
            f"{key} {version}": len(data)
            for key, (version, data) in self.store.objects.items()
            if key.startswith(below)
        }
        parts = {f"{key} {upload}": sum(map(len, parts.values())) for (key, upload), parts in self.store.parts.items()}
        return {**stored, **parts}

    async def ask(self, *files, **more):
        return await self.intake.answer(MODEL, "pia", UploadRequest(files=files, **more))


async def test_files_are_asked_for_verified_and_committed():
    world = World()
    files = (file_of(b"weights"), file_of(b"{}", "adapter_config.json"))
    answer = await world.ask(*files, folder=True)
    assert (answer.state, len(answer.permits), answer.stored_bytes) == ("missing", 2, 0)
    assert world.store.send(answer.permits[0], b"weights") == 200
    answer = await world.ask(*files, folder=True)
    assert [permit.digest for permit in answer.permits] == [files[1].digest]
    assert world.store.send(answer.permits[0], b"{}") == 200
    answer = await world.ask(*files, folder=True)
    assert (answer.state, answer.stored_bytes) == ("stored", 9)
    assert await world.ask(*files, folder=True) == answer
    assert answer.folder.uri.startswith(f"s3://slipway/checkpoints/{MODEL}/uploads/pia-files/manifests/folder/")


async def test_other_content_than_announced_is_removed_and_refused():
    world, file = World(), file_of(b"weights")
    key = blob_key(MODEL, "pia", file.digest)
    world.store.put_manifest(key, b"changed")
    answer = await world.ask(file)
    assert (answer.state, answer.code, world.store.find_file(key)) == ("refused", "digest_mismatch", None)


async def test_parts_of_other_uploads_count_for_the_quota_and_its_own_are_a_part_of_its_size():
    world = World(quota=PART_BYTES + 1)
    answer = await world.ask(LARGE)
    assert world.store.send(answer.permits[1], b"x") == 200
    answer = await world.ask(LARGE)
    assert (answer.state, answer.stored_bytes) == ("missing", 1)
    full = file_of(b"y" * (PART_BYTES // 1024), "other.json").model_copy(update={"size_bytes": PART_BYTES})
    assert (await world.ask(full)).state == "missing", "what has not arrived counts for nothing"
    refused = await world.ask(full, file_of(b"z", "more.json"))
    assert (refused.state, refused.code) == ("refused", "team_quota_exceeded")
    assert "team support has stored 1, and its quota" in refused.reason


async def test_a_base_model_is_named_with_its_architecture_and_one_that_was_not_imported_with_those_that_were():
    world = World()
    manifest = BaseManifest(
        name="acme/base-1b",
        revision="1",
        folder=ArtifactRef(uri="s3://slipway/manifests/folder/a.json", digest="sha256:" + "a" * 64, size_bytes=1),
        weights_bytes=1,
        architecture="LlamaForCausalLM",
        imported_at=START,
        source="tests",
    )
    world.store.put_manifest("bases/acme/base-1b/1.json", manifest.model_dump_json().encode())
    found = await world.ask(base="acme/base-1b")
    assert (found.base.revision, found.architecture) == ("1", "LlamaForCausalLM")
    answer = await world.ask(base="base-1b")
    assert (answer.state, answer.code) == ("refused", "unknown_base")
    assert "acme/base-1b" in answer.reason
