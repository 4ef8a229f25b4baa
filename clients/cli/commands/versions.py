"""`slipway versions` and `show`: registered versions, their lineage, and a comparison of their variants."""

from collections.abc import Sequence
from typing import Any

from clients.cli.connection import StackAddress, ask_bus, find_stack
from clients.cli.options import JsonOption, ModelArgument, StateOption
from clients.cli.output import CommandError, is_terminal, show_json, show_line, show_pairs, show_table
from clients.cli.releases.evaluation_tables import read_evaluated_rows, show_evaluations
from clients.cli.releases.recorded_releases import Release
from clients.cli.releases.resolving import AnsweringArgument, advise, find_answering
from clients.cli.releases.runtimes import read_runtimes
from clients.cli.releases.version_prices import describe_prices, hourly_price, price_per_hour, release_price
from clients.cli.releases.version_records import (
    Version,
    course_of,
    find_version,
    look_up_version,
    open_store,
    read_deployments,
    read_release,
    read_routes,
    version_numbers,
    with_benchmarks,
)
from clients.cli.views import comparison
from contracts.facts import VariantBenchmarked
from contracts.facts.staging import SideSummary
from contracts.manifests import DeploymentRecord
from contracts.routes import Route
from contracts.vocabulary import Target
from decisions.checkpoints.adapters import describe_quantised
from decisions.serving.settings import describe_settings
from shared.storage.blobs import Store


def versions(model: ModelArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the registered versions of a model, with their lineage and their role in production."""
    stack = find_stack(state)
    store = open_store(stack)
    registered = [find_version(store, model, number) for number in version_numbers(store, model)]
    route = ask_bus(stack, read_routes).get(model)
    if as_json:
        show_json(
            [{**version_data(version), "serving": _roles(route, version.manifest.version)} for version in registered]
        )
        return
    if not registered:
        hint = advise(stack, model, f"slipway status {model}")
        raise CommandError(f"{model} has no registered version yet{hint}")
    rows = [
        (
            f"v{version.manifest.version}",
            _roles(route, version.manifest.version) or "-",
            ", ".join(variant.variant for variant in version.manifest.variants),
            version.manifest.base.name,
            version.manifest.training.run_id,
            short_digest(version.manifest.training.data_hash),
            f"{version.manifest.registered_at:%Y-%m-%d %H:%M}",
            len(version.deployments),
            describe_settings(version.manifest.serving) or "-",
        )
        for version in registered
    ]
    columns = ("version", "serving", "variants", "base", "run", "data", "registered", "deployments", "settings")
    show_table(columns, rows, rare={"settings"})


def _roles(route: Route | None, version: int) -> str:
    """Return the roles in which a version serves, separated by commas."""
    if route is None:
        return ""
    return ", ".join(role for role, served in route.by_role.items() if served.target.version == version)


def short_digest(digest: str) -> str:
    """Return the first 12 characters of a digest."""
    return digest.removeprefix("sha256:")[:12]


def version_data(version: Version) -> dict[str, Any]:
    """Return a version as JSON data."""
    return {
        "manifest": version.manifest.model_dump(mode="json"),
        "manifest_digest": version.digest,
        "deployments": [record.model_dump(mode="json") for record in version.deployments],
        "benchmarks": [benchmark.model_dump(mode="json") for benchmark in version.benchmarks],
    }


def show(
    what: AnsweringArgument,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a version, or an answer's version: manifest, lineage, deployments, benchmarks, evaluations, variants."""
    stack = find_stack(state)
    model, number, variant, digest = find_answering(stack, what)
    store = open_store(stack)
    version = look_up_version(store, model, number)
    release = ask_bus(stack, lambda js: read_release(js, model, number, version))
    if version is None and release is None:
        raise CommandError(f"{model} has no version {number}{advise(stack, model, f'slipway versions {model}')}")
    made = version.manifest.variants if version is not None else ()
    if digest is not None and not any(
        each.variant == variant and short_digest(each.manifest.digest).startswith(digest) for each in made
    ):
        raise CommandError(f"{model}@v{number} has no variant {variant} with manifest {digest}…; see another stack")
    version = version and with_benchmarks(version, release)
    compared = release.progress.comparison if release is not None else None
    compared = compared or comparison.of_registered(version.manifest.variants if version is not None else ())
    if as_json:
        known = {"manifest": None, "release": release and release.progress.release_id}
        data = known if version is None else version_data(version)
        rows = [
            each.model_dump(mode="json") | {"chosen": each.variant == compared.winner} for each in compared.variants
        ]
        evaluated = release.evaluated.model_dump(mode="json") if release and release.evaluated else None
        show_json({**data, "evaluated": evaluated, "variants": rows})
        return
    _show_identity(f"{model}@v{number}", version, release)
    show_line()
    show_table(comparison.COLUMNS, [comparison.row(each, compared) for each in compared.variants], rare={"price"})
    if is_terminal():
        show_line(f"  {comparison.LEGEND}")
    _show_prices(stack, store, version)
    for each in compared.variants:
        if each.reason and each.is_judged:
            show_line(f"  {comparison.why(each)}")
    own = comparison.on_own_set(compared.variants)
    if own:
        show_line(f"  {own}")
    if release is not None and release.evaluated is not None:
        own_set = release.opened.evaluation if release.opened is not None else None
        show_evaluations(release.evaluated, read_evaluated_rows(store, release.evaluated, own_set))
    if version is not None:
        _show_history(version, course_of(read_deployments(store, f"versions/{model}/"), number))


def _show_identity(what: str, version: Version | None, release: Release | None) -> None:
    if version is not None:
        registered = f"{version.manifest.registered_at:%Y-%m-%d %H:%M:%S} UTC"
        manifests = {f"variant {each.variant}": each.manifest.digest for each in version.manifest.variants}
        known = {"release": version.manifest.release_id, "registered": registered, "manifest": version.digest}
        show_pairs({"version": what, **known, **manifests, **lineage(version)})
    elif release is not None:
        progress = release.progress
        outcome = f"{progress.outcome}: {progress.code}: {progress.reason}" if progress.outcome else "in progress"
        show_pairs({"version": f"{what}, not registered", "release": progress.release_id, "outcome": outcome})


def _show_history(version: Version, course: Sequence[tuple[DeploymentRecord, Target | None]]) -> None:
    for benchmark in version.benchmarks:
        show_line()
        _show_benchmark(benchmark)
    if course:
        show_line()
        rows = [
            (each.epoch, each.target, each.cause, f"{each.weight_ratio:.0%}", str(each.deployed_at)[:19], active or "-")
            for each, active in course
        ]
        show_table(("epoch", "deployed", "cause", "share", "at", "active before"), rows)


def lineage(version: Version) -> dict[str, Any]:
    """Return the lineage of a version, by name."""
    manifest = version.manifest
    training = manifest.training
    evals = ", ".join(f"{item.name} {item.metric} {item.value:g}" for item in manifest.evals)
    return {
        "base": f"{manifest.base.name} at {manifest.base.revision} ({manifest.base.digest})",
        manifest.weights.kind: f"{manifest.weights.ref.digest} ({manifest.weights.ref.uri})",
        **({"training": describe_quantised(manifest.quantised_base)} if manifest.quantised_base is not None else {}),
        "training run": training.run_id,
        "training data": training.data_hash,
        "hyperparameters": ", ".join(f"{key}={value}" for key, value in training.hyperparameters.items()) or "-",
        "evals": evals or "-",
        "merged": manifest.merged.digest,
        "serving settings": describe_settings(manifest.serving) or "-",
    }


def _show_prices(stack: StackAddress, store: Store, version: Version | None) -> None:
    """Print the cost of the release and of a loaded version, if its benchmarks state a price."""
    per_hour = price_per_hour(version) if version is not None else None
    if version is not None and per_hour is not None:
        made = release_price(store, version, per_hour)
        held = hourly_price(ask_bus(stack, read_runtimes), version, per_hour)
        show_line(f"  {describe_prices(per_hour, made, held)}")


def _show_benchmark(benchmark: VariantBenchmarked) -> None:
    show_line(
        f"benchmark of {benchmark.target} against {benchmark.baseline}: {benchmark.verdict} "
        f"(attempt {benchmark.attempt}, {benchmark.hardware})"
    )
    candidate, baseline = benchmark.candidate_summary, benchmark.baseline_summary
    ratio_of = {ratio.metric: ratio for ratio in benchmark.ratios}
    rows = []
    for name, left, right in zip(_FIGURES, _figures(candidate), _figures(baseline), strict=True):
        ratio = ratio_of.get(name)
        interval = "" if ratio is None else f"x{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
        rows.append((name, left, right, interval))
    own, other = candidate.natural, baseline.natural
    if own is not None and other is not None:
        rows.append(("end by themselves", f"{own.ended} of {own.asked}", f"{other.ended} of {other.asked}", ""))
        rows.append(("tokens of these", f"{own.mean_tokens:.4g}", f"{other.mean_tokens:.4g}", ""))
    show_table(("figure", str(benchmark.target), str(benchmark.baseline), "ratio"), rows)
    gates = [(gate.name, gate.verdict, gate.reason) for gate in benchmark.gates]
    show_table(("gate", "verdict", "reason"), gates)


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
    """Return the figures of one side as text; `-` if the sample is too small."""
    figures: list[str] = []
    for name in _FIGURES:
        value: Any = side
        for part in name.split("."):
            value = getattr(value, part)
        figures.append("-" if value is None else f"{value:.4g}")
    return figures
