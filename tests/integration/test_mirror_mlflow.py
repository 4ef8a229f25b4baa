"""The mirror and a real MLflow server: versions, tags, aliases, runs; outages, deletions and renumbering."""

import asyncio
import uuid

import pytest

from contracts.envelope import plain
from contracts.facts import VersionRegistered
from contracts.routes import Route
from contracts.vocabulary import canonical_json
from services.mirror.adapters.mlflow import OWNED, MlflowRegistry
from services.mirror.adapters.mlflow_api import MlflowAccess, MlflowApi, tags_of
from services.mirror.ports import Refused, Unavailable
from shared.storage.blobs import Store
from shared.storage.kv import Bucket
from testbed import factories
from testbed.relay import relaying
from testbed.released import release
from testbed.servers import running, wait_until
from testbed.services import running_service
from tests.kit.conformance_mirror import RegistryConformance
from tests.kit.histories import history
from tests.kit.mlflow_server import MlflowServer, require_environment

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory):
    require_environment()
    with running(MlflowServer(tmp_path_factory.mktemp("mlflow"))) as server:
        yield server


@pytest.fixture
async def api(mlflow):
    api = MlflowApi(MlflowAccess(mlflow.url))
    yield api
    await api.close()


@pytest.fixture
def model():
    return f"m-{uuid.uuid4().hex[:8]}"


class TestMlflow(RegistryConformance):
    @pytest.fixture
    def registry(self, api):
        return _Asked(api)


class _Asked(MlflowRegistry):
    """The registry, with what tests ask and do beside it."""

    async def shown(self, model):
        versions = {each.name_there: each.version for each in await self.mirrored(model)}
        return {alias: versions[number] for alias, number in (await aliases_of(self._api, model)).items()}

    async def forget(self, model, number):
        await self._api.send("DELETE", "model-versions/delete", name=model, version=number)


async def aliases_of(api, model):
    answer = await api.get("registered-models/get", name=model)
    return {each["alias"]: each["version"] for each in answer["registered_model"].get("aliases", [])}


async def versions_of(api, model):
    return [item async for item in api.pages("model-versions/search", "model_versions", filter=f"name='{model}'")]


# -- the adapter alone ------------------------------------------------------------------------------------------------


async def test_a_version_has_its_lineage_and_the_run_that_trained_it(api, model):
    run = await api.send("POST", "runs/create", experiment_id="0")
    run_id = run["run"]["info"]["run_id"]
    training = factories.training().model_copy(update={"run_id": run_id})
    registry = MlflowRegistry(api)
    await registry.mirrored(model)
    await registry.put(history(model, 3, training=training), "state", None)
    (version,) = await versions_of(api, model)
    tags = tags_of(version)
    assert version["run_id"] == run_id
    assert version["source"] == factories.ref("merged").uri
    assert f"slipway verify {model}@v3" in version["description"]
    assert tags["slipway.training_data_hash"] == factories.digest("tickets-2026-11")
    assert tags["slipway.hyperparameter.lora_r"] == "8"
    assert tags["slipway.eval.routing.accuracy"] == "0.872"


async def test_names_and_values_of_others_are_taken_as_they_are_or_made_safe(api, model):
    hostile = {"": "", "a/../b": "x", "//": 1, "'; DROP TABLE": None, "ü\u202e\n": "\ud800", "k" * 400: "v" * 9000}
    training = factories.training().model_copy(update={"hyperparameters": hostile, "run_id": "../x y?&=%00"})
    registry = MlflowRegistry(api)
    await registry.mirrored(model)
    put = await registry.put(history(model, 1, training=training), "state", None)
    assert await registry.mirrored(model) == [put], "MLflow has every tag as it was written"


async def test_a_tag_that_was_edited_there_is_written_again(api, model):
    registry = MlflowRegistry(api)
    await registry.mirrored(model)
    put = await registry.put(history(model, 1), "state", None)
    which = {"name": model, "version": put.name_there}
    await api.send("POST", "model-versions/set-tag", **which, key="slipway.base", value="another")
    await api.send("POST", "model-versions/set-tag", **which, key="slipway.extra", value="x")
    await api.send("POST", "model-versions/set-tag", **which, key="theirs", value="stays")
    (edited,) = await registry.mirrored(model)
    assert edited.fingerprint == ""
    await registry.put(history(model, 1), "state", edited)
    assert await registry.mirrored(model) == [put]
    (version,) = await versions_of(api, model)
    assert tags_of(version)["theirs"] == "stays"


async def test_a_registered_model_of_others_is_left_alone_until_they_say_so(api, model):
    await api.send("POST", "registered-models/create", name=model)
    registry = MlflowRegistry(api)
    with pytest.raises(Refused, match="MIRROR_MLFLOW_PREFIX"):
        await registry.mirrored(model)
    await api.send("POST", "registered-models/set-tag", name=model, key=OWNED, value="true")
    assert await registry.mirrored(model) == []


async def test_more_versions_than_a_page_are_all_found(mlflow, model):
    api = MlflowApi(MlflowAccess(mlflow.url), page=2)
    registry = MlflowRegistry(api)
    await registry.mirrored(model)
    for number in range(1, 6):
        await registry.put(history(model, number), "state", None)
    assert sorted(each.version for each in await registry.mirrored(model)) == [1, 2, 3, 4, 5]
    await api.close()


async def test_a_server_that_is_gone_is_unavailable(mlflow, model):
    with relaying(mlflow.port) as relay:
        api = MlflowApi(MlflowAccess(f"http://127.0.0.1:{relay.port}"))
        registry = MlflowRegistry(api)
        assert await registry.mirrored(model) == []
        relay.cut()
        with pytest.raises(Unavailable) as caught:
            await registry.mirrored(model)
        assert caught.value.code == "hub_unavailable"
        await api.close()


# -- the service ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def model_in_slipway(js, settings, tmp_path, model):
    """A model in a real store and on a real bus, with a version and a route to it."""
    slipway = _Slipway(js, settings, tmp_path, model)
    await slipway.register(1)
    await slipway.routes.create(model, slipway.route(1))
    return slipway


class _Slipway:
    def __init__(self, js, settings, keys, model):
        self.js, self.settings, self.keys, self.model = js, settings, keys, model
        self.store, self.routes = Store(settings), Bucket(js, "routes", Route)

    async def register(self, version):
        return await asyncio.to_thread(release, self.store, self.keys, self.model, version)

    def route(self, active, canary=None):
        served = {version: factories.served(version, model=self.model) for version in (active, canary) if version}
        share = {"served": served[canary], "weight_ratio": 0.2} if canary else None
        return factories.route(model=self.model, active=served[active], previous=None, canary=share)

    async def change(self, route):
        await self.routes.update(self.model, route, (await self.routes.get(self.model)).revision)

    async def announce(self, released):
        fact = factories.fact(VersionRegistered, version=released.manifest.version, manifest=released.ref)
        event = factories.event(fact, subject=self.model)
        await self.js.publish(event.nats_subject, canonical_json(plain(event)))


class _Shown:
    """What MLflow shows of a model, for assertions that wait."""

    def __init__(self, api, model):
        self._api, self._model = api, model

    async def numbers(self):
        """Return MLflow's number of each version."""
        versions = await versions_of(self._api, self._model)
        return {tags_of(item)["slipway.version"]: item["version"] for item in versions}

    async def versions(self, *expected):
        """Return the numbers once there are exactly these versions."""
        async with asyncio.timeout(30):
            while set(shown := await self.numbers()) != set(expected):
                await asyncio.sleep(0.1)
        return shown

    async def aliases(self, **expected):
        """Return once exactly these aliases are set."""
        async with asyncio.timeout(30):
            while await aliases_of(self._api, self._model) != expected:
                await asyncio.sleep(0.1)


async def test_the_service_follows_releases_through_an_outage_and_a_renumbering(mlflow, api, model_in_slipway):
    slipway, shown = model_in_slipway, _Shown(api, model_in_slipway.model)
    with relaying(mlflow.port) as relay:
        more = {
            "MIRROR_MLFLOW_URL": f"http://127.0.0.1:{relay.port}",
            "MIRROR_SWEEP_S": "0.2",
            "MIRROR_RESYNC_S": "2",
            "MIRROR_RETRY_FIRST_S": "0.2",
            "MIRROR_RETRY_LONGEST_S": "0.5",
        }
        with running_service("services.mirror.main", slipway.settings, **more):
            first = await shown.versions("1")
            await shown.aliases(champion=first["1"])

            relay.cut()  # the outage: a version is registered and takes a share of traffic meanwhile
            await slipway.announce(await slipway.register(2))
            await slipway.change(slipway.route(1, canary=2))
            log = slipway.settings.state_dir / "services.mirror.main.log"
            await asyncio.to_thread(wait_until, lambda: "hub_unavailable" in log.read_text(), what="a failed attempt")
            assert set(await shown.numbers()) == {"1"}
            relay.reconnect()
            both = await shown.versions("1", "2")
            await shown.aliases(champion=both["1"], candidate=both["2"])

            await api.send("DELETE", "model-versions/delete", name=slipway.model, version=both["1"])
            again = await shown.versions("1", "2")
            assert int(again["1"]) > int(both["2"]), "MLflow never uses a number again"
            await shown.aliases(champion=again["1"], candidate=both["2"])
    assert "Traceback" not in log.read_text()
