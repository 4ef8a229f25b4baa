"""`publish --from-mlflow` with a server in MLflow's place: each wrong answer is refused with a sentence, in time."""

import asyncio
import contextlib
import json
from types import SimpleNamespace

import pytest

from clients.cli.output import CommandError, Exit
from clients.cli.sources import mlflow_source
from clients.cli.sources.mlflow_source import access_of, fetch
from shared.storage.mlflow import MlflowAccess, MlflowApi, MlflowError
from tests.integration.mlflow_answers import answering, reply

URI = "models:/theirs/1"
WEIGHTS = {"path": "model.safetensors", "file_size": 3}
ANSWERS = {
    "model-versions/get-download-uri": {"artifact_uri": "mlflow-artifacts:/folder"},
    "model-versions/get": {"model_version": {"name": "theirs", "version": "1", "run_id": "r1"}},
    "runs/get": {"run": {"info": {"end_time": 1700000000000}, "data": {}}},
    "mlflow-artifacts/artifacts?": {"files": [WEIGHTS]},
}


@contextlib.asynccontextmanager
async def mlflow(download=None, **changed):
    """Run the server; its answers of some paths, by their beginning, are others."""
    requests = []

    async def answer(writer):
        path = requests[-1].split()[1]
        for part, body in {**ANSWERS, **changed}.items():
            if part in path:
                await reply(200, json.dumps(body))(writer)
                return
        await (download or reply(200, b"abc"))(writer)

    async with answering(answer, requests) as url:
        yield MlflowAccess(url, call_s=5.0)


async def test_a_version_is_downloaded_with_its_run(tmp_path):
    async with mlflow() as access:
        checkpoint = await fetch(access, URI, tmp_path, quiet=True)
    assert (tmp_path / "model.safetensors").read_bytes() == b"abc"
    assert (checkpoint.run_id, checkpoint.finished_at.year) == ("r1", 2023)


@pytest.mark.parametrize("size", [-(10**15), "-5", "x", 1.5, True, [], {}, 10**30, "\u0663"])
async def test_a_size_that_is_no_number_of_bytes_is_refused(tmp_path, size):
    """A negative one would take a file of any size below the limit of a checkpoint."""
    files = [{"path": "model.safetensors", "file_size": 10**15}, {"path": "config.json", "file_size": size}]
    async with mlflow(**{"mlflow-artifacts/artifacts?": {"files": files}}) as access:
        with pytest.raises(MlflowError, match=r"config\.json with the size .*, which is no number of bytes") as caught:
            await fetch(access, URI, tmp_path, quiet=True)
    assert caught.value.code == "hub_unavailable"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("run", [{"run": None}, {"run": []}, {"run": {"data": [1]}}, {"run": {"info": "x"}}, {}])
async def test_a_run_that_is_no_object_is_refused(tmp_path, run):
    async with mlflow(**{"runs/get": run}) as access:
        with pytest.raises(MlflowError, match="is no object"):
            await fetch(access, URI, tmp_path, quiet=True)


@pytest.mark.parametrize("located", ["runs:/r1/adapter", "models:/m-1"])
@pytest.mark.parametrize("named", [None, {"info": None}])
async def test_a_location_that_leads_to_no_object_is_refused(tmp_path, located, named):
    at = {"model-versions/get-download-uri": {"artifact_uri": located}, "logged-models/": {"model": named}}
    async with mlflow(**at, **{"runs/get": {"run": named}}) as access:
        with pytest.raises(MlflowError, match="is no object"):
            await fetch(access, URI, tmp_path, quiet=True)


@pytest.mark.parametrize("metrics", [1, "x", [1, None, []], {"a": 1}])
@pytest.mark.parametrize("ended", ["soon", -1, 10**30, [1], True])
async def test_metrics_and_times_that_are_none_are_left_out(tmp_path, metrics, ended):
    run = {"run": {"data": {"metrics": metrics, "params": metrics, "tags": metrics}, "info": {"end_time": ended}}}
    async with mlflow(**{"runs/get": run}) as access:
        checkpoint = await fetch(access, URI, tmp_path, quiet=True)
    assert (checkpoint.evals, checkpoint.finished_at) == ((), None)


async def test_a_download_that_drips_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_source, "DOWNLOAD_S", 0.4)

    async def drip(writer):
        writer.write(b"HTTP/1.1 200 X\r\ncontent-length: 1000\r\n\r\n")
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.02)

    files = {"mlflow-artifacts/artifacts?": {"files": [{"path": "model.safetensors", "file_size": 1000}]}}
    async with mlflow(drip, **files) as access, asyncio.timeout(3.0):
        with pytest.raises(CommandError, match="was not read within"):
            await fetch(access, URI, tmp_path, quiet=True)


@pytest.mark.parametrize("address", ["https://u:hunter2@host", "https://hunter2@host/x", "u:hunter2@host"])
async def test_an_address_with_a_secret_is_refused_and_not_shown(address):
    settings = SimpleNamespace(mlflow_tracking_uri=address, mlflow_token_file=None, mlflow_ca=None)
    with pytest.raises(CommandError) as caught:
        access_of(settings, URI)
    assert "SLIPWAY_MLFLOW_TOKEN_FILE" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.code is Exit.USAGE
    if "://" in address:
        with pytest.raises(ValueError, match="token file") as wrong:
            MlflowApi(MlflowAccess(address))
        assert "hunter2" not in str(wrong.value)
