"""A flood of announcements of one team, valid and invalid, before the registry: others' are admitted meanwhile."""

import asyncio
import json

from contracts import facts as f
from contracts.envelope import CONTENT_TYPE
from contracts.services import INBOX, durable_name
from services.registry.app import SERVICE
from shared.runtime.clock import SystemClock
from shared.runtime.team_list import TeamList
from testbed.factories import PUBLISHER
from testbed.services import wait_for_fact
from tests.integration.registry_process import READY, base, checkpoint, publish, registry, store  # noqa: F401 - fixtures
from tests.kit import fakes_registry as k

FLOOD = 900
CALM = "calm-bot"


def teams_in(file):
    quota = {"announcements_per_minute": 20}
    teams = [
        {"name": name, "models": [model], "members": [], "unrestricted": [PUBLISHER], "quota": quota}
        for name, model in (("shop", k.MODEL), ("bank", CALM))
    ]
    file.write_text(json.dumps(teams))
    return TeamList(file, SystemClock()).require().read


async def flood(js, valid):
    """Publish announcements at once: valid, with weights that are not there, and no event at all."""
    ref = valid.weights.ref.model_copy(update={"uri": valid.weights.ref.uri + "x"})
    lost = valid.model_copy(update={"weights": valid.weights.model_copy(update={"ref": ref})})

    async def send(number):
        attempt = {"attempt": 1 + number}
        if number % 3 < 2:
            await publish(js, (valid, lost)[number % 3].model_copy(update=attempt), f"flood-{number}")
        else:
            subject, headers = f"{READY}.{k.MODEL}.{PUBLISHER}", {"content-type": CONTENT_TYPE}
            await js.publish(subject, b"{not an event", headers=headers)

    await asyncio.gather(*(send(number) for number in range(FLOOD)))


async def test_an_announcement_behind_hundreds_of_another_team_is_admitted_within_seconds(
    js,
    settings,
    checkpoint,  # noqa: F811 - the fixture
    tmp_path,
):
    await flood(js, checkpoint())
    calm = checkpoint(model=CALM)
    await publish(js, calm, "calm", model=CALM)
    async with registry(js, settings, teams=teams_in(tmp_path / "teams.json")):
        assert len(await wait_for_fact(js, f.ReleaseOpened, model=CALM, timeout_s=5)) == 1
        consumer = await js.consumer_info(INBOX, durable_name(SERVICE, f.CheckpointReady))
        assert consumer.num_pending > FLOOD / 3, "the flood is not settled yet"
