"""Checkpoints from MLflow's model registry: `models:/NAME/VERSION` or `models:/NAME@ALIAS`, by its REST API."""

import asyncio
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clients.cli.output import CommandError, Exit, show_line
from clients.cli.settings import CliSettings
from clients.cli.sources.upload import Advance, progress_bar
from contracts.facts import EvalResult
from contracts.storage.sources import is_weights, pickles_in, travels
from shared.runtime.settings import SourceSettings
from shared.storage.mlflow import MlflowAccess, MlflowApi, MlflowError, tags_of

DOWNLOAD_S = 600.0
"""Seconds that a download may take at least."""
LEAST_BYTES_PER_S = 1_000_000
"""A larger checkpoint may take longer, at this rate."""
DATA_HASH_TAG = "slipway.data_hash"
"""Tag of an MLflow run with the digest of its training data, `sha256:<hex>`."""
_SIZE = re.compile(r"[0-9]{1,18}", re.ASCII)
_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>[0-9]+)|@(?P<alias>[^/@]+))")
_RUN = re.compile(r"runs:/(?P<run>[^/]+)/(?P<path>.+)")
_LOGGED = re.compile(r"models:/(?P<model>m-[0-9a-zA-Z]+)/?")


@dataclass(frozen=True)
class MlflowCheckpoint:
    """A model version of MLflow: where its files are, and the run that made it.

    Attributes:
        uri: The version itself: an alias is resolved.
        folder: Its folder in MLflow's artifact proxy.
        sizes: Bytes by name of the files that are downloaded.
        run_id: The run; empty if the version names none.
        hyperparameters: The run's parameters.
        evals: The run's metrics, the last value of each.
        data_hash: The run's tag `slipway.data_hash`; empty without one.
        finished_at: When the run ended.
    """

    uri: str
    folder: str
    sizes: Mapping[str, int]
    run_id: str = ""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    evals: tuple[EvalResult, ...] = ()
    data_hash: str = ""
    finished_at: datetime | None = None


def access_of(settings: CliSettings, uri: str) -> MlflowAccess:
    """Return how MLflow is reached.

    Raises:
        CommandError: No server is set, or its address holds a secret.
    """
    address = settings.mlflow_tracking_uri
    if address and "@" in address:  # also of one that is not valid: messages show it
        raise CommandError(
            f"{uri} cannot be read: MLFLOW_TRACKING_URI holds a user or a password (`@`), which messages would show; "
            "put USER:PASSWORD into a file, and name that in SLIPWAY_MLFLOW_TOKEN_FILE",
            Exit.USAGE,
        )
    if not address or urlsplit(address).scheme not in ("http", "https"):
        problem = f"MLFLOW_TRACKING_URI is {address[:200]!r}" if address else "MLFLOW_TRACKING_URI is not set"
        raise CommandError(f"{uri} cannot be read: {problem}; name an MLflow server, https://HOST", Exit.USAGE)
    return MlflowAccess(address, settings.mlflow_token_file, settings.mlflow_ca)


async def fetch(access: MlflowAccess, uri: str, into: Path, *, quiet: bool) -> MlflowCheckpoint:
    """Download what a URI of MLflow's registry names into a folder, and return it."""
    api = MlflowApi(access)
    try:
        checkpoint = await resolve(api, uri)
        if checkpoint.uri != uri and not quiet:
            show_line(f"{uri} resolves to {checkpoint.uri}")
        total = sum(checkpoint.sizes.values())
        limit_s = max(DOWNLOAD_S, total / LEAST_BYTES_PER_S)
        with progress_bar(f"reading {checkpoint.uri}", total, shown=not quiet) as advance:
            try:
                async with asyncio.timeout(limit_s):
                    await download(api, checkpoint, into, advance)
            except TimeoutError:
                raise CommandError(
                    f"{checkpoint.uri} was not read within {limit_s:.0f} s, the limit for {total:,} bytes: MLflow is "
                    "too slow; download the folder with `mlflow artifacts download`, and publish it with --adapter"
                ) from None
    finally:
        await api.close()
    return checkpoint


async def resolve(api: MlflowApi, uri: str) -> MlflowCheckpoint:
    """Return the model version that a URI of MLflow's registry names.

    Raises:
        CommandError: It is not valid, does not exist, or its files cannot be read or accepted.
        MlflowError: The server does not answer.
    """
    version = await _find_version(api, uri)
    which = {"name": str(version["name"]), "version": str(version["version"])}
    run_id = str(version.get("run_id") or "")
    run = await api.find("runs/get", run_id=run_id) if run_id else None
    located = (await api.get("model-versions/get-download-uri", **which)).get("artifact_uri", "")
    folder, sizes = await _find_files(api, uri, await _proxied(api, uri, str(located)))
    facts = _facts_of(_object(run.get("run"), f"run {run_id}")) if run is not None else {}
    pinned = f"models:/{which['name']}/{which['version']}"
    return MlflowCheckpoint(pinned, folder, sizes, run_id if run is not None else "", **facts)


async def download(api: MlflowApi, checkpoint: MlflowCheckpoint, into: Path, advance: Advance) -> None:
    """Download a checkpoint's files into a folder; raise CommandError if one has another size than MLflow lists."""
    for name, size in checkpoint.sizes.items():
        done = 0
        with (into / name).open("xb") as file:
            async with api.download(f"{checkpoint.folder}/{name}") as parts:
                async for part in parts:
                    done += len(part)
                    if done > size:
                        break
                    file.write(part)
                    advance(len(part))
        if done != size:
            more = "more than" if done > size else f"{done:,} instead of"
            raise CommandError(f"{name} of {checkpoint.uri} has {more} {size:,} bytes; log the model again in MLflow")


async def _find_version(api: MlflowApi, uri: str) -> dict[str, Any]:
    match = _URI.fullmatch(uri)
    if match is None:
        raise CommandError(
            f"the MLflow model {uri!r} is not valid: write models:/NAME/VERSION or models:/NAME@ALIAS", Exit.USAGE
        )
    name = match["name"]
    if match["alias"]:
        answer = await api.find("registered-models/alias", name=name, alias=match["alias"])
    else:
        answer = await api.find("model-versions/get", name=name, version=match["version"])
    version = (answer or {}).get("model_version")
    if not isinstance(version, dict) or not {"name", "version"} <= version.keys():
        raise CommandError(f"MLflow has no {uri}; see its page of registered models")
    return version


async def _proxied(api: MlflowApi, uri: str, located: str) -> str:
    """Return the folder in the artifact proxy that a location means."""
    if (run := _RUN.fullmatch(located)) is not None:
        answer = await api.get("runs/get", run_id=run["run"])
        info = _object(_object(answer.get("run"), "the run").get("info"), "the run's info")
        located = f"{info.get('artifact_uri', '')}/{run['path']}"
    elif (logged := _LOGGED.fullmatch(located)) is not None:
        answer = await api.get(f"logged-models/{logged['model']}")
        info = _object(_object(answer.get("model"), "the logged model").get("info"), "the logged model's info")
        located = str(info.get("artifact_uri", ""))
    parts = urlsplit(located)
    if parts.scheme != "mlflow-artifacts" or ".." in parts.path.split("/") or not parts.path.strip("/"):
        raise CommandError(
            f"the files of {uri} are at {located[:200]!r}, not in MLflow's artifact proxy: download them with `mlflow "
            "artifacts download`, and publish the folder with --adapter"
        )
    return parts.path.strip("/")


async def _find_files(api: MlflowApi, uri: str, folder: str) -> tuple[str, dict[str, int]]:
    """Return the folder that holds the weights, the located one or the only one below it that does, and its files."""
    listed = await api.list_artifacts(folder)
    sizes, names = _sizes(listed), [str(item.get("path", "")) for item in listed]
    if not any(map(is_weights, sizes)):
        below = {}
        for item in listed:
            name = str(item.get("path", ""))
            if item.get("is_dir") and "/" not in name and name not in ("", ".", ".."):
                inner = await api.list_artifacts(f"{folder}/{name}")
                names += [str(each.get("path", "")) for each in inner]
                if any(map(is_weights, _sizes(inner))):
                    below[f"{folder}/{name}"] = _sizes(inner)
        if len(below) != 1:
            raise CommandError(_no_weights(uri, names, list(below)))
        ((folder, sizes),) = below.items()
    _check_limits(uri, sizes)
    return folder, sizes


def _no_weights(uri: str, names: list[str], several: list[str]) -> str:
    if several:
        return f"{uri} holds weights in several folders ({', '.join(sorted(several))[:200]}): log one checkpoint only"
    pickles = pickles_in([name.rpartition("/")[2] for name in names])
    if pickles:
        return f"{uri} holds its weights as a pickle ({pickles[0][:100]}), which is not accepted: log safetensors"
    return f"{uri} holds no .safetensors file: log the folder that save_pretrained wrote"


def _sizes(listed: list[dict[str, Any]]) -> dict[str, int]:
    """Return the files that travel, with their sizes."""
    files = {str(item.get("path", "")): item.get("file_size") for item in listed if not item.get("is_dir")}
    return {name: _size(name, size) for name, size in files.items() if travels(name)}


def _size(name: str, listed: Any) -> int:
    """Return the size of a file as MLflow lists it: a number, or its digits; nothing for an empty file."""
    text = "0" if listed is None else str(listed)
    if isinstance(listed, bool | float) or _SIZE.fullmatch(text) is None:
        raise MlflowError(f"MLflow lists {name[:200]} with the size {text[:40]!r}, which is no number of bytes.")
    return int(text)


def _object(value: Any, what: str) -> dict[str, Any]:
    """Return a part of an answer; raise MlflowError if it is no object."""
    if not isinstance(value, dict):
        raise MlflowError(f"MLflow answers without {what}: {repr(value)[:80]} is no object; look at it in MLflow.")
    return value


def _check_limits(uri: str, sizes: Mapping[str, int]) -> None:
    limits, total = SourceSettings(), sum(sizes.values())
    if len(sizes) > limits.source_max_files:
        raise CommandError(f"{uri} has {len(sizes)} files; the limit is {limits.source_max_files}")
    if total > limits.source_max_bytes:
        raise CommandError(f"{uri} has {total:,} bytes; the limit is {limits.source_max_bytes:,}")


def _facts_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's data about its training, as fields of `MlflowCheckpoint`."""
    data, info = _object(run.get("data") or {}, "the run's data"), _object(run.get("info") or {}, "the run's info")
    metrics = data.get("metrics") if isinstance(data.get("metrics"), list) else []
    return {
        "hyperparameters": {key: _value(value) for key, value in tags_of({"tags": data.get("params")}).items()},
        "evals": tuple(filter(None, (_evaluation(each) for each in metrics or () if isinstance(each, dict)))),
        "data_hash": tags_of(data).get(DATA_HASH_TAG, ""),
        "finished_at": _ended(info.get("end_time")),
    }


def _ended(milliseconds: Any) -> datetime | None:
    """Return when a run ended; None if MLflow has no valid time of it."""
    text = str(milliseconds or "")
    return datetime.fromtimestamp(int(text) / 1000, UTC) if re.fullmatch(r"[0-9]{1,14}", text, re.ASCII) else None


def _evaluation(metric: Mapping[str, Any]) -> EvalResult | None:
    """Return a metric as an evaluation; None for one of the machine, or without a finite value."""
    key, value = str(metric.get("key", "")), metric.get("value")
    if key.startswith("system/") or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    lower = any(word in key.lower() for word in ("loss", "perplexity", "error"))
    return EvalResult(name="mlflow", metric=key[:200], value=float(value), higher_is_better=not lower)


def _value(text: str) -> Any:
    """Return a parameter with the type that it had: MLflow keeps texts only, those of Python's own values."""
    if text in {"True", "False"}:
        return text == "True"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, float) and not math.isfinite(value) else value
