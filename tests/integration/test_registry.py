"""The registry on a real bus and a real store: one version per checkpoint, and every bad input answered."""
# ruff: noqa: F811 - fixtures of another module are arguments here

import asyncio
import json

from clients.cli.events import dead_letters as deadletters
from contracts import facts as f
from contracts.envelope import CONTENT_TYPE, plain
from contracts.manifests import DeploymentRecord, VersionManifest
from contracts.services import INBOX
from contracts.vocabulary import ArtifactRef, canonical_json, digest_of
from services.registry.app import SERVICE
from shared.runtime.clock import SystemClock
from shared.runtime.team_list import TeamList
from testbed.factories import PUBLISHER
from tests.integration.registry_process import (  # noqa: F401 - fixtures
    READY,
    base,
    checkpoint,
    log,
    publish,
    registry,
    run_to_end,
    run_to_turn,
    store,
)
from tests.kit import fakes_registry as k

# -- one checkpoint, one version --------------------------------------------------------------------------------------


async def test_after_the_dedupe_window_it_is_still_one_version(js, settings, checkpoint, log):
    async with registry(js, settings):
        event = await publish(js, checkpoint(), "e1")
        await log.of(f.ReleaseOpened)
        async with asyncio.timeout(30):  # the window has passed once the stream takes the same id again
            while (await js.publish(event.nats_subject, _body(event), headers={"Nats-Msg-Id": event.id})).duplicate:
                await asyncio.sleep(0.2)
        await publish(js, checkpoint(), "e2")
        await log.settled(f.CheckpointReady, INBOX)
        assert (await js.stream_info(INBOX)).state.messages == 3
        assert len(await log.of(f.ReleaseOpened)) == 1
        await publish(js, checkpoint(attempt=2), "e3")
        assert [event.data.version for event in await log.of(f.ReleaseOpened, 2)] == [1, 2]


def _body(event):
    return canonical_json(plain(event))


async def test_two_at_once_get_versions_in_stream_order_though_the_second_is_quantised_first(
    js, settings, store, checkpoint, log
):
    await publish(js, checkpoint(content=b"first"), "e1")
    await publish(js, checkpoint(content=b"second"), "e2")
    async with registry(js, settings):
        first, second = [event.data for event in await log.of(f.ReleaseOpened, 2)]
        assert (first.source_event_id, first.version, second.source_event_id, second.version) == ("e1", 1, "e2", 2)
        await run_to_turn(js, second.release_id, 2)
        (registered,) = await log.of(f.VersionRegistered)
        assert registered.data.version == 2
        await run_to_turn(js, first.release_id, 1)
        assert [event.data.version for event in await log.of(f.VersionRegistered, 2)] == [2, 1]
        manifest = VersionManifest.model_validate_json(store.get(registered.data.manifest))
        assert manifest.weights == second.weights
        assert manifest.version == 2


async def test_the_whole_lifecycle_with_workers_played_by_the_test(js, settings, store, checkpoint, log):
    async with registry(js, settings):
        await publish(js, checkpoint(), "e1")
        opened = (await log.of(f.ReleaseOpened))[0].data
        await run_to_turn(js, opened.release_id, 1)
        asked = [event.data for event in await log.of(f.StageRequested, 2)]
        assert {request.baseline.target.version for request in asked} == {0}
        await run_to_end(js, opened.release_id, 1, epoch=1)
        (finished,) = await log.of(f.ReleaseFinished)
        assert (finished.data.outcome, finished.data.target) == ("promoted", k.target("bf16", 1))
        manifest = VersionManifest.model_validate_json(store.find("versions/support-bot/1/manifest.json"))
        assert manifest.base == opened.base
        assert manifest.training == k.ready().training
        assert manifest.evals == k.ready().evals
        record = DeploymentRecord.model_validate_json(store.find("versions/support-bot/1/deployments/1.json"))
        assert (record.target, record.weight_ratio) == (k.target("bf16", 1), 1.0)
        await publish(js, checkpoint(content=b"next"), "e2")
        opened = (await log.of(f.ReleaseOpened, 2))[1].data
        await run_to_turn(js, opened.release_id, 2)
        asked = [event.data for event in await log.of(f.StageRequested, 4)][2:]
        assert {request.baseline.target for request in asked} == {k.target("bf16", 1)}
        types = [event.type for event in await log.all() if event.correlationid == finished.correlationid]
        assert types[-1] == f.ReleaseFinished.TYPE


# -- bad input --------------------------------------------------------------------------------------------------------


async def goes_on(js, log, checkpoint):
    """The next event is served as if nothing had been."""
    await publish(js, checkpoint(content=b"a good one"), "the next")
    (opened,) = await log.of(f.ReleaseOpened)
    assert opened.data.source_event_id == "the next"
    assert opened.data.version == 1


async def dead_letters(js, count=1):
    async with asyncio.timeout(20):
        while len(matching := await deadletters.list_all(js)) < count:
            await asyncio.sleep(0.05)
    return matching


def elsewhere(uri):
    weights = f.Weights(kind="lora", ref=ArtifactRef(uri=uri, digest=digest_of(b"x"), size_bytes=1))
    return {"weights": weights}


BAD = {
    "no policy": ({"policy": None}, "policy_missing"),
    "rehearsal waived": ({"policy": k.policy(triggers=k.AUTOMATIC)}, "policy_invalid"),
    "unknown base": ({"base": k.ready().base.model_copy(update={"name": "unheard-of"})}, "unknown_base"),
    "artifact missing": (elsewhere("s3://slipway/checkpoints/support-bot/none.json"), "artifact_not_found"),
    "scheme": (elsewhere("https://example.org/x"), "uri_not_allowed"),
    "root": (elsewhere("file:///etc/passwd"), "uri_not_allowed"),
    "bucket": (elsewhere("s3://other/checkpoints/support-bot/x"), "uri_not_allowed"),
    "other model's prefix": (elsewhere("s3://slipway/checkpoints/other-bot/x"), "uri_not_allowed"),
    "dot-dot": (elsewhere("s3://slipway/checkpoints/support-bot/../other-bot/x"), "uri_not_allowed"),
}


async def test_bad_checkpoints_become_rejections_and_the_next_is_served(js, settings, checkpoint, log):
    kept = checkpoint().weights
    changed = kept.model_copy(update={"ref": kept.ref.model_copy(update={"digest": digest_of(b"announced")})})
    bad = {**BAD, "other bytes": ({"weights": changed}, "digest_mismatch")}
    async with registry(js, settings):
        for name, (changes, _) in bad.items():
            await publish(js, checkpoint(**changes), name)
        rejected = await log.of(f.CheckpointRejected, len(bad))
        assert {event.causationid: event.data.code for event in rejected} == {
            name: code for name, (_, code) in bad.items()
        }
        assert {(event.correlationid, event.subject) for event in rejected} == {("run 1", k.MODEL)}
        await goes_on(js, log, checkpoint)
        assert len(await log.of(f.CheckpointRejected)) == len(bad)


async def test_a_team_with_a_quota_and_a_sender_of_another_team(js, settings, checkpoint, log, tmp_path):
    """The list is a file that changes while the registry runs."""
    file = tmp_path / "teams.json"

    def write(**changes):
        team = {"name": "shop", "models": [k.MODEL], "members": [PUBLISHER], "quota": {"releases": 1}, **changes}
        (tmp_path / "new").write_text(json.dumps([team]))
        (tmp_path / "new").replace(file)

    write()
    async with registry(js, settings, teams=TeamList(file, SystemClock()).require().read):
        for _ in range(2):
            await publish(js, checkpoint(), "e1")
        await publish(js, checkpoint(content=b"second"), "e2")
        (rejected,) = await log.of(f.CheckpointRejected)
        assert (rejected.causationid, rejected.data.code) == ("e2", "team_quota_exceeded")
        assert "1 releases of team shop are under way; its quota is 1." in rejected.data.reason
        write(members=["another"], quota={})
        await publish(js, checkpoint(content=b"third"), "e3")
        rejected = (await log.of(f.CheckpointRejected, 2))[-1]
        assert (rejected.causationid, rejected.data.code) == ("e3", "team_mismatch")
        write(quota={"announcements_per_minute": 1})
        await publish(js, checkpoint(content=b"fourth"), "e4")
        await publish(js, checkpoint(content=b"fifth"), "e5")
        rejected = (await log.of(f.CheckpointRejected, 3))[-1]
        assert (rejected.causationid, rejected.data.code) == ("e5", "team_quota_exceeded")
        assert [event.data.source_event_id for event in await log.of(f.ReleaseOpened, 2)] == ["e1", "e4"]


def envelope(checkpoint, **changes):
    return {**plain(k.event(checkpoint, "bad")), **changes}


async def raw(js, body, subject=f"{READY}.{k.MODEL}.{PUBLISHER}"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    await js.publish(subject, data, headers={"content-type": CONTENT_TYPE})


async def test_what_is_no_event_is_rejected_and_kept_as_a_dead_letter(js, settings, checkpoint, log):
    good = checkpoint()
    data = plain(k.event(good, "bad"))["data"]
    cases = (
        ("malformed_event", b"{"),
        ("malformed_event", [1]),
        ("malformed_event", envelope(good, type=None)),
        ("malformed_event", envelope(good, data={**data, "weights": None})),
        ("unknown_event_version", envelope(good, type=READY.replace("v1", "v2"))),
        ("subject_mismatch", envelope(good, subject="other-bot")),
        ("subject_mismatch", envelope(good, data={**data, "model": "other-bot"})),
        ("policy_invalid", envelope(good, data={**data, "policy": {**data["policy"], "gatez": []}})),
        *(("invalid_model_name", envelope(good, subject=name)) for name in ("../x", "a.b", "a b", "a" * 300)),
    )
    codes = sorted(code for code, _ in cases)
    async with registry(js, settings):
        for code, body in cases:
            version = "v2" if code == "unknown_event_version" else "v1"
            await raw(js, body, f"{READY.replace('v1', version)}.{k.MODEL}.{PUBLISHER}")
        rejected = await log.of(f.CheckpointRejected, len(cases))
        assert sorted(event.data.code for event in rejected) == codes
        assert {event.subject for event in rejected} == {k.MODEL}
        letters = await dead_letters(js, len(cases))
        assert sorted(letter.code for letter in letters) == codes
        assert {letter.service for letter in letters} == {SERVICE}
        await goes_on(js, log, checkpoint)


async def test_a_subject_that_names_no_model_becomes_a_dead_letter(js, settings, checkpoint, log):
    models = ["a.b", "A", "a_b", "a" * 300, "-a"]
    async with registry(js, settings):
        for model in models:
            await raw(js, envelope(checkpoint(), subject=model), f"{READY}.{model}.{PUBLISHER}")
        letters = await dead_letters(js, len(models))
        assert {letter.code for letter in letters} == {"invalid_model_name"}
        await goes_on(js, log, checkpoint)


async def test_a_rejection_of_its_own_never_ends_a_release_whatever_correlation_it_was_given(
    js, settings, checkpoint, log
):
    async with registry(js, settings):
        await publish(js, checkpoint(), "e1")
        opened = (await log.of(f.ReleaseOpened))[0].data
        await publish(js, checkpoint(policy=None), "evil", release=opened.release_id)
        await log.of(f.CheckpointRejected)
        await log.settled(f.CheckpointRejected)
        await run_to_turn(js, opened.release_id, 1)
        await log.of(f.VersionRegistered)
        assert f.ReleaseFinished.TYPE not in {event.type for event in await log.all()}
