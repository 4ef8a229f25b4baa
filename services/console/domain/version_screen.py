"""Data of the version page: lineage, measurements, and differences from another version. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from contracts import facts as f
from contracts.envelope import Event
from contracts.evaluations.results import EvaluationSummary
from services.console.domain.order_data import Quarantine
from services.console.domain.release_data import VariantRow
from services.console.domain.release_screen import last, variants_of
from services.console.domain.rows import instant
from services.console.domain.screens import Deployment, Screen, Suspension, Time

Events = Sequence[Event[Any]]
Kind = Literal["data", "base", "checkpoint", "merged", "variant", "version"]
STEPS: tuple[tuple[Kind, ...], ...] = (("data", "base"), ("checkpoint",), ("merged",), ("variant",), ("version",))
"""Columns of the lineage: an artifact's inputs are in earlier columns."""
GROUPS: Final = ("evaluations", "variants", "policy", "hyperparameters", "serving", "origin", "lineage")
"""Groups of properties in order of comparison."""


class Artifact(Screen):
    """An artifact of the lineage, with its digest."""

    kind: Kind
    name: str
    digest: str
    detail: str = ""


class Version(Screen):
    """A version: lineage back to the training data's hash, digests, measurements, and times of serving.

    Attributes:
        manifest_digest: Digest of the version's manifest; None until registered.
        settings: Hyperparameters as stated by the publisher.
        serving: Serving settings.
        policy: The policy of its release.
        evaluations: Slipway's evaluations of the chosen variant against the version that served then.
        evals: Evaluations by the training system.
        rolled_back_at: Time of a rollback after its promotion; None without one.
        quarantined: Its quarantined targets.
        suspended: Its targets that an alert took out of traffic.
        deployments: Changes of the route that gave it traffic, newest first.
    """

    model: str
    version: int
    release_id: str
    outcome: str | None
    rolled_back_at: Time | None
    registered_at: Time | None
    manifest_digest: str | None
    run_id: str
    framework: str
    publishers: tuple[str, ...]
    settings: dict[str, Any]
    serving: dict[str, Any]
    policy: dict[str, Any]
    evaluations: tuple[EvaluationSummary, ...]
    evals: tuple[f.EvalResult, ...]
    lineage: tuple[tuple[Artifact, ...], ...]
    variants: tuple[VariantRow, ...]
    deployments: tuple[Deployment, ...]
    quarantined: tuple[Quarantine, ...] = ()
    suspended: tuple[Suspension, ...] = ()


class Proof(Screen):
    """A verified step of the lineage; `stated` means signed by a publisher, but not observed by Slipway."""

    what: str
    verdict: Literal["proven", "stated", "failed"]
    detail: str


class Proofs(Screen):
    """Findings about a version's signatures, digests and attestations; `problem` if they cannot be read."""

    proofs: tuple[Proof, ...]
    verified: bool
    card: str
    problem: str = ""


class Difference(Screen):
    """A property of two versions.

    Attributes:
        change: The right figure minus the left one; empty if equal or no figures.
        tone: Whether the change is better; empty if undecided.
    """

    group: str
    name: str
    left: str
    right: str
    differs: bool
    change: str = ""
    tone: Literal["good", "bad", ""] = ""


class VersionComparison(Screen):
    """Two versions of a model, compared by property."""

    model: str
    left: int
    right: int
    rows: tuple[Difference, ...]


def build_version(
    events: Events, outcome: str | None, deployments: Iterable[Deployment], rolled_back_at: str | None
) -> Version | None:
    """Return the version page of a release; None without its `release.opened` event."""
    opened = last(events, f.ReleaseOpened)
    if opened is None:
        return None
    registered = next((event for event in reversed(events) if isinstance(event.data, f.VersionRegistered)), None)
    evaluated: f.VariantEvaluated | None = last(events, f.VariantEvaluated)
    serving = opened.serving or (registered.data.serving if registered is not None else None)
    return Version(
        model=opened.model,
        version=opened.version,
        release_id=opened.release_id,
        outcome=outcome,
        rolled_back_at=rolled_back_at,
        registered_at=instant(registered.time) if registered is not None else None,
        manifest_digest=registered.data.manifest.digest if registered is not None else None,
        run_id=opened.training.run_id,
        framework=opened.training.framework,
        publishers=opened.publishers,
        settings=opened.training.hyperparameters,
        serving=serving.model_dump(mode="json", exclude_none=True, exclude_defaults=True) if serving else {},
        policy=opened.policy.model_dump(mode="json", exclude_none=True),
        evaluations=evaluated.results if evaluated is not None else (),
        evals=opened.evals,
        lineage=_lineage(events, opened),
        variants=tuple(variants_of(events, opened.variants)),
        deployments=tuple(deployments),
    )


def _lineage(events: Events, opened: f.ReleaseOpened) -> tuple[tuple[Artifact, ...], ...]:
    artifacts = list(_artifacts(events, opened))
    columns = (tuple(artifact for kind in kinds for artifact in artifacts if artifact.kind == kind) for kinds in STEPS)
    return tuple(column for column in columns if column)


def _artifacts(events: Events, opened: f.ReleaseOpened) -> Iterable[Artifact]:
    yield Artifact(
        kind="data", name="training data", digest=opened.training.data_hash, detail="as its publisher stated"
    )
    base = opened.base
    yield Artifact(kind="base", name=base.name, digest=base.digest, detail=f"revision {base.revision}")
    weights = opened.weights
    yield Artifact(
        kind="checkpoint", name=opened.training.run_id, digest=weights.ref.digest, detail=f"{weights.kind} weights"
    )
    merged = last(events, f.CheckpointMerged)
    if merged is not None:
        yield Artifact(kind="merged", name="merged model", digest=merged.manifest.digest, detail=merged.method.dtype)
    quantised = {event.data.variant: event.data for event in events if isinstance(event.data, f.VariantQuantised)}
    for name, files in quantised.items():
        engine = f"{files.engine.name} {files.engine.version}"
        yield Artifact(kind="variant", name=name, digest=files.manifest.digest, detail=engine)
    registered = last(events, f.VersionRegistered)
    if registered is not None:
        yield Artifact(
            kind="version", name=f"{opened.model} v{opened.version}", digest=registered.manifest.digest, detail="signed"
        )


@dataclass(frozen=True)
class Property:
    """A property of a version: its text, the value to compare, and its figure if one can be better."""

    text: str
    known_by: object = None
    figure: float | None = None
    more_is_better: bool = True

    @property
    def identity(self) -> object:
        """Return the value by which properties are compared."""
        return self.text if self.known_by is None else self.known_by


NONE: Final = Property("")


def compare_versions(left: Version, right: Version) -> VersionComparison:
    """Compare the properties of two versions: measurements first, digests last."""
    first, second = dict(_properties(left)), dict(_properties(right))
    names = sorted(dict.fromkeys([*first, *second]), key=lambda name: GROUPS.index(name[0]))
    rows = tuple(_difference(*name, first.get(name, NONE), second.get(name, NONE)) for name in names)
    return VersionComparison(model=left.model, left=left.version, right=right.version, rows=rows)


def _difference(group: str, name: str, left: Property, right: Property) -> Difference:
    row = Difference(group=group, name=name, left=left.text, right=right.text, differs=left.identity != right.identity)
    if left.figure is None or right.figure is None or left.figure == right.figure:
        return row
    more = right.figure - left.figure
    tone = "good" if (more > 0) == right.more_is_better else "bad"
    return row.model_copy(update={"change": f"{more:+.3g}", "tone": tone})


def _properties(version: Version) -> Iterable[tuple[tuple[str, str], Property]]:
    for summary in version.evaluations:
        for score in summary.scores:
            name = f"{summary.name} {score.scorer} {score.slice}".strip()
            yield ("evaluations", name), Property(f"{score.candidate:.1%}", figure=100 * score.candidate)
    for result in version.evals:
        shown = Property(f"{result.value:g}", figure=result.value, more_is_better=result.higher_is_better)
        yield ("evaluations", f"{result.name} {result.metric}".strip()), shown
    for variant in version.variants:
        for name, shown in _figures(variant):
            yield ("variants", f"{variant.variant} {name}"), shown
    for group, settings in (
        ("policy", version.policy),
        ("hyperparameters", version.settings),
        ("serving", version.serving),
    ):
        for name, value in flatten(settings).items():
            yield (group, name), Property(str(value))
    yield ("origin", "training run"), Property(version.run_id)
    yield ("origin", "outcome"), Property(", ".join((version.outcome or "in progress", *_since(version))))
    for column in version.lineage:
        for artifact in column:
            label = artifact.name if artifact.kind == "variant" else artifact.kind
            short = f"{artifact.digest[:15]}… {artifact.detail}".strip()
            yield ("lineage", label), Property(short, known_by=(artifact.digest, artifact.detail))


def _since(version: Version) -> Iterable[str]:
    """Yield changes of a version's state after its release."""
    if version.rolled_back_at:
        yield "rolled back"
    if version.quarantined:
        yield "quarantined"
    if version.suspended:
        yield "suspended"


def _figures(variant: VariantRow) -> Iterable[tuple[str, Property]]:
    yield "verdict", Property(variant.state + (", chosen" if variant.chosen else ""))
    figures = (
        ("size", variant.size_bytes, "{:,} bytes", False),
        ("perplexity ratio", variant.perplexity_ratio, "{:.4f}", False),
        ("mean KL", variant.mean_kl, "{:.4g}", False),
        ("TTFT p95", variant.ttft_p95_ms, "{:.0f} ms", False),
        ("tokens/s", variant.tps_system, "{:.1f}", True),
    )
    for name, value, form, more_is_better in figures:
        if value is not None:
            yield name, Property(form.format(value), figure=value, more_is_better=more_is_better)


def flatten(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names; list entries are named by their `name` or `metric`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            named = {entry.get("name") or entry.get("metric") or str(at): entry for at, entry in enumerate(value, 1)}
            flat |= flatten(named, f"{before}{name}.")
        elif isinstance(value, Mapping):
            flat |= flatten(value, f"{before}{name}.")
        else:
            flat[f"{before}{name}"] = value
    return flat
