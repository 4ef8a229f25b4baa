"""`slipway versions`, `show`, `trace` and `routes`: what exists, what serves, and where it came from."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from clients.cli.connection import JsonOption, Place, StateOption, find_place
from clients.cli.output import Exit, Refused, show_json, show_line, show_pairs, show_table
from clients.cli.version_records import (
    FINGERPRINT,
    VERSION,
    Version,
    find_version,
    gather_version,
    kept_variant,
    look_up_version,
    open_store,
    parse_version,
    read_events,
    read_routes,
    version_numbers,
    with_benchmarks,
)
from clients.cli.views import comparison as contenders
from clients.cli.views.comparison import Contender
from clients.cli.views.release import join, project
from contracts.envelope import Event
from contracts.facts import ReleaseOpened, VariantBenchmarked
from contracts.facts.staging import SideSummary
from contracts.manifests import DeploymentRecord
from contracts.routes import Route, ServedTarget
from shared.storage.blobs import Store


def versions(model: str, state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the registered versions of a model, with lineage and what of each serves now."""
    place = find_place(state)
    store = open_store(place)
    found = [find_version(store, model, number) for number in version_numbers(store, model)]
    route = asyncio.run(read_routes(place)).get(model)
    if as_json:
        show_json([{**_version_data(one), "serving": _serving(route, one.manifest.version)} for one in found])
        return
    if not found:
        raise Refused(f"{model} has no registered version yet; see `slipway status {model}`")
    rows = [
        (
            f"v{one.manifest.version}",
            _serving(route, one.manifest.version) or "-",
            ", ".join(variant.variant for variant in one.manifest.variants),
            one.manifest.base.name,
            one.manifest.training.run_id,
            _short(one.manifest.training.data_hash),
            f"{one.manifest.registered_at:%Y-%m-%d %H:%M}",
            len(one.deployments),
        )
        for one in found
    ]
    show_table(("version", "serving", "variants", "base", "run", "data", "registered", "deployments"), rows)


def _serving(route: Route | None, version: int) -> str:
    """Say in which roles a version serves."""
    if route is None:
        return ""
    roles = {
        "active": route.active,
        "canary": route.canary.served if route.canary else None,
        "previous": route.previous,
    }
    return ", ".join(role for role, served in roles.items() if served is not None and served.target.version == version)


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _version_data(one: Version) -> dict[str, Any]:
    return {
        "manifest": one.manifest.model_dump(mode="json"),
        "manifest_digest": one.digest,
        "deployments": [record.model_dump(mode="json") for record in one.deployments],
        "benchmarks": [benchmark.model_dump(mode="json") for benchmark in one.benchmarks],
    }


def show(
    what: Annotated[str, typer.Argument(metavar="MODEL@vN")], state: StateOption = None, as_json: JsonOption = False
) -> None:
    """Show a version: its manifest, lineage, deployments and benchmark, and its variants side by side."""
    model, number = parse_version(what)
    place = find_place(state)
    store, events = open_store(place), asyncio.run(read_events(place, model))
    found = look_up_version(store, model, number)
    opened = contenders.find_release(events, model, number)
    if found is None and opened is None:
        raise Refused(f"{model} has no version {number}; see `slipway versions {model}`")
    one = None if found is None else with_benchmarks(found, events)
    compared = _compared(store, events, opened, one)
    if as_json:
        data = {"manifest": None, "release": opened and opened.release_id} if one is None else _version_data(one)
        show_json({**data, "variants": [each.as_data() for each in compared]})
        return
    _show_identity(f"{model}@v{number}", one, opened, events)
    show_line()
    show_table(contenders.COLUMNS, [each.row() for each in compared])
    for each in compared:
        if each.reason:
            show_line(f"  {each.why()}")
    own = contenders.on_own_set(compared)
    if own:
        show_line(f"  {own}")
    if one is not None:
        _show_history(one)


def _compared(
    store: Store, events: Sequence[Event[Any]], opened: ReleaseOpened | None, one: Version | None
) -> list[Contender]:
    """Put the variants side by side; of those that are kept though they never were registered, the store knows more."""
    registered = () if one is None else one.manifest.variants
    if opened is None:  # the log does not reach back to it
        return [contenders.registered_alone(each) for each in registered]
    found = []
    for each in contenders.compare(events, opened, registered):
        unknown = each.manifest is not None and each.size_bytes is None
        kept = kept_variant(store, each.manifest) if unknown and each.manifest is not None else None
        found.append(each if kept is None else contenders.with_manifest(each, kept))
    return found


def _show_identity(what: str, one: Version | None, opened: ReleaseOpened | None, events: Sequence[Event[Any]]) -> None:
    if one is not None:
        registered = f"{one.manifest.registered_at:%Y-%m-%d %H:%M:%S} UTC"
        manifests = {f"variant {each.variant}": each.manifest.digest for each in one.manifest.variants}
        known = {"release": one.manifest.release_id, "registered": registered, "manifest": one.digest}
        show_pairs({"version": what, **known, **manifests, **lineage(one)})
    elif opened is not None:
        end = contenders.find_end(events, opened.release_id)
        outcome = "under way" if end is None else f"{end.outcome}: {end.code}: {end.reason}"
        show_pairs({"version": f"{what}, not registered", "release": opened.release_id, "outcome": outcome})


def _show_history(one: Version) -> None:
    for benchmark in one.benchmarks:
        show_line()
        _show_benchmark(benchmark)
    if one.deployments:
        show_line()
        rows = [
            (record.epoch, record.target, record.cause, f"{record.weight_ratio:.0%}", _when(record))
            for record in one.deployments
        ]
        show_table(("epoch", "deployed", "cause", "share", "at"), rows)


def _when(record: DeploymentRecord) -> str:
    return f"{record.deployed_at:%Y-%m-%d %H:%M:%S}"


def lineage(one: Version) -> dict[str, Any]:
    """Return where a version came from."""
    manifest = one.manifest
    training = manifest.training
    evals = ", ".join(f"{item.name} {item.metric} {item.value:g}" for item in manifest.evals)
    return {
        "base": f"{manifest.base.name} at {manifest.base.revision} ({manifest.base.digest})",
        manifest.weights.kind: f"{manifest.weights.ref.digest} ({manifest.weights.ref.uri})",
        "training run": training.run_id,
        "training data": training.data_hash,
        "hyperparameters": ", ".join(f"{key}={value}" for key, value in training.hyperparameters.items()) or "-",
        "evals": evals or "-",
        "merged": manifest.merged.digest,
    }


def _show_benchmark(benchmark: VariantBenchmarked) -> None:
    again = "" if benchmark.measurement_number == 1 else f"measurement {benchmark.measurement_number}, "
    show_line(
        f"benchmark of {benchmark.target} against {benchmark.baseline}: {benchmark.verdict} "
        f"(attempt {benchmark.attempt}, {again}{benchmark.hardware})"
    )
    mine, theirs = benchmark.candidate_summary, benchmark.baseline_summary
    ratio_of = {ratio.metric: ratio for ratio in benchmark.ratios}
    rows = []
    for name, left, right in zip(_FIGURES, _figures(mine), _figures(theirs), strict=True):
        ratio = ratio_of.get(name)
        interval = "" if ratio is None else f"x{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
        rows.append((name, left, right, interval))
    show_table(("figure", str(benchmark.target), str(benchmark.baseline), "ratio"), rows)
    gates = [(gate.name, gate.verdict, gate.attributed_to or "-", gate.reason) for gate in benchmark.gates]
    show_table(("gate", "verdict", "at fault", "why"), gates)


_FIGURES = (
    "requests",
    "errors",
    "ttft_ms.p50",
    "ttft_ms.p95",
    "ttft_ms.p99",
    "itl_ms.p50",
    "itl_ms.p95",
    "e2e_ms.p50",
    "e2e_ms.p95",
    "tps_request.p50",
    "tps_system",
    "goodput_rps",
)


def _figures(side: SideSummary) -> list[str]:
    """Write the figures of one side; `-` where the sample allows none."""
    found: list[str] = []
    for name in _FIGURES:
        value: Any = side
        for part in name.split("."):
            value = getattr(value, part)
        found.append("-" if value is None else f"{value:.4g}")
    return found


def trace(
    what: Annotated[str, typer.Argument(metavar="FINGERPRINT|MODEL@vN|RELEASE")],
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Walk back from an answer's system_fingerprint, a version or a release to where it came from."""
    place = find_place(state)
    model, number, variant, digest = asyncio.run(_resolve(place, what))
    if number == 0:
        asyncio.run(_trace_base(place, model, as_json))
        return
    one = asyncio.run(gather_version(place, model, number))
    chosen = [each for each in one.manifest.variants if variant is None or each.variant == variant]
    if digest is not None and not any(_short(each.manifest.digest).startswith(digest) for each in chosen):
        raise Refused(f"{model}@v{number} has no variant {variant} with manifest {digest}…: not from this stack")
    if as_json:
        show_json({"target": what, "variants": [each.model_dump(mode="json") for each in chosen], **_version_data(one)})
        return
    show_pairs(
        {
            "asked": what,
            "version": f"{model}@v{number} ({one.digest})",
            "release": one.manifest.release_id,
            **{f"variant {each.variant}": f"{each.manifest.digest} ({each.manifest.uri})" for each in chosen},
            **lineage(one),
            **{f"benchmark {each.target.variant}": f"{each.verdict} ({each.report.uri})" for each in one.benchmarks},
            **{f"deployed {each.epoch}": f"{each.target} {each.cause} {_when(each)}" for each in one.deployments},
        }
    )


async def _resolve(place: Place, what: str) -> tuple[str, int, str | None, str | None]:
    """Return model, version, variant and digest that a word names; the last two may be open."""
    if (found := FINGERPRINT.match(what)) is not None:
        return found["model"], int(found["version"]), found["variant"], found["digest"]
    if VERSION.match(what):
        return (*parse_version(what), None, None)
    roads = join(project(await read_events(place, None)))
    road = next((one for one in roads.values() if one.release_id == what), None)
    if road is None or road.version is None:
        raise Refused(f"{what!r} is no fingerprint, version or release; see `slipway versions MODEL`", Exit.USAGE)
    return road.model, road.version, None, None


async def _trace_base(place: Place, model: str, as_json: bool) -> None:
    """Version 0 is the base model of the model's releases."""
    opened = [event.data for event in await read_events(place, model) if isinstance(event.data, ReleaseOpened)]
    if not opened:
        raise Refused(f"{model} had no release yet, so nothing is known about its base; see `slipway base list`")
    base = opened[-1].base
    if as_json:
        show_json({"model": model, "version": 0, "base": base.model_dump(mode="json")})
        return
    show_pairs({"version": f"{model}@v0, the base model", **base.model_dump()})


def routes(
    model: Annotated[str | None, typer.Argument()] = None, state: StateOption = None, as_json: JsonOption = False
) -> None:
    """Show what serves production: active, canary and previous target of each model."""
    found = asyncio.run(read_routes(find_place(state)))
    chosen = [route for name, route in sorted(found.items()) if model in (None, name)]
    if as_json:
        show_json([route.model_dump(mode="json") for route in chosen])
        return
    if not chosen:
        raise Refused(f"nothing serves {model or 'production'} yet; see `slipway status`")
    rows = [
        (
            route.model,
            route.epoch,
            _named(route.active),
            f"{_named(route.canary.served)} {route.canary.weight_ratio:.0%}" if route.canary else "-",
            _named(route.previous),
            ", ".join(str(target) for target in route.quarantined) or "-",
        )
        for route in chosen
    ]
    show_table(("model", "epoch", "active", "canary", "previous", "quarantined"), rows)


def _named(served: ServedTarget | None) -> str:
    return "-" if served is None else str(served.target)
