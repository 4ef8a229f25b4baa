"""Facts, records and ports for tests of the registry, all handwritten."""

import asyncio
from datetime import UTC, datetime, timedelta

from contracts import facts as f
from contracts.envelope import Event
from contracts.evaluations.results import EvaluationSummary
from contracts.facts.staging import SideSummary
from contracts.manifests import (
    ApprovalRecord,
    BaseManifest,
    DeploymentRecord,
    FileEntry,
    FolderManifest,
    VersionManifest,
)
from contracts.policy import ReleasePolicy, Trigger
from contracts.routes import CanaryShare, Route, ServedTarget, ShadowShare
from contracts.teams import Team
from contracts.vocabulary import ArtifactRef, Deployable, Target, canonical_json, digest_of, digest_of_json
from services.registry.domain.announcements import Announcements
from services.registry.domain.record import ManifestWritten, Release, TurnGranted
from services.registry.domain.versions import ModelRecord, StoredVersions
from services.registry.ports import Ports
from shared.errors import Permanent
from shared.messaging.records import RecordStore
from shared.storage.kv import Conflict, Entry
from testbed.factories import source_for
from tests.kit.records import MemoryBucket, MemoryPublisher, MemoryRecords, no_wait

MODEL = "support-bot"
START = datetime(2026, 11, 24, 12, tzinfo=UTC)


def ref(name: str) -> ArtifactRef:
    return ArtifactRef(uri=f"s3://slipway/{name}", digest=digest_of(name.encode()), size_bytes=len(name))


FOLDER = FolderManifest(files=(FileEntry(path="model.safetensors", digest=digest_of(b"w"), size_bytes=1),))
BASE_BYTES = FOLDER.to_bytes()
BASE_FOLDER = ArtifactRef(
    uri="s3://slipway/manifests/folder/base.json", digest=digest_of(BASE_BYTES), size_bytes=len(BASE_BYTES)
)
BASE = BaseManifest(
    name="tiny",
    revision="1",
    folder=BASE_FOLDER,
    weights_bytes=10,
    architecture="LlamaForCausalLM",
    imported_at=START,
    source="a test",
)
MANUAL = Trigger(name="errors", metric="error_ratio", threshold=0.01, action="manual")
AUTOMATIC = (
    Trigger(name="errors", metric="error_ratio", threshold=0.01),
    Trigger(name="slow", metric="ttft_ms", threshold=800.0),
)


def policy(**changes) -> ReleasePolicy:
    """A policy that a person acts on, so that nothing needs a rehearsal."""
    return ReleasePolicy(**{"triggers": (MANUAL,), "rehearsal": "not_required", **changes})


def careful_policy(**changes) -> ReleasePolicy:
    """A policy that rolls back automatically, and therefore rehearses; one of its triggers is manual."""
    triggers = (*AUTOMATIC, MANUAL.model_copy(update={"name": "repetition", "metric": "repetition_ratio"}))
    return policy(**{"triggers": triggers, "rehearsal": "required", **changes})


def ready(**changes) -> f.CheckpointReady:
    weights = f.Weights(kind="lora", ref=ref(f"checkpoints/{MODEL}/manifests/folder/a.json"))
    given = {
        "model": MODEL,
        "base": f.BaseModelRef(name="tiny", revision="1", uri=BASE_FOLDER.uri, digest=BASE_FOLDER.digest),
        "weights": weights,
        "training": f.Training(run_id="run 1", data_hash=digest_of(b"data"), hyperparameters={"r": 8}),
        "evals": (f.EvalResult(name="held out", metric="perplexity", value=12.5, higher_is_better=False),),
        "variants": ("bf16", "int8"),
        "policy": policy(),
    }
    return f.CheckpointReady(**{**given, **changes})


def event(fact, event_id: str, *, correlation: str = "run 1", model: str = MODEL, source=None, at=START):
    return Event[type(fact)](
        id=event_id,
        source=source or source_for(type(fact)),
        type=fact.TYPE,
        subject=model,
        time=at,
        correlationid=correlation,
        data=fact,
    )


RELEASE = "r-0123456789abcdef-1"


def opened(version: int = 1, release_id: str = RELEASE, **changes) -> f.ReleaseOpened:
    checkpoint = ready(**changes)
    return f.ReleaseOpened(
        release_id=release_id,
        model=MODEL,
        version=version,
        attempt=1,
        release_key=digest_of(release_id.encode()),
        base=checkpoint.base,
        weights=checkpoint.weights,
        training=checkpoint.training,
        evals=checkpoint.evals,
        calibration=checkpoint.calibration,
        evaluation=checkpoint.evaluation,
        variants=checkpoint.variants,
        policy=checkpoint.policy,
        source_event_id="e0",
        serving=checkpoint.serving,
    )


# -- what the workers answer ------------------------------------------------------------------------------------------


def merged(**changes) -> f.CheckpointMerged:
    method = f.MergeMethod(dtype="bfloat16", library_versions={"peft": "0.21"})
    return f.CheckpointMerged(
        manifest=ref("manifests/merged/m.json"),
        method=method,
        duration_s=1.0,
        **changes,
    )


def quality(perplexity_ratio: float = 1.01, mean_kl: float = 0.01, tokens: int = 100) -> f.Quality:
    return f.Quality(
        perplexity_ratio=perplexity_ratio, mean_kl=mean_kl, p99_kl=0.1, top1_agreement_ratio=0.9, tokens=tokens
    )


def quantised(variant: str, *, weights_bytes: int = 100, **measured) -> f.VariantQuantised:
    return f.VariantQuantised(
        variant=variant,
        manifest=ref(f"manifests/variant/{variant}.json"),
        weights_bytes=weights_bytes,
        engine=f.EngineVersion(name="llmcompressor", version="0.14"),
        size_ratio=0.5,
        quality=quality(**measured),
        duration_s=1.0,
    )


def target(variant: str, version: int = 1) -> Target:
    return Target(model=MODEL, version=version, variant=variant)


def served(target: Target) -> ServedTarget:
    manifest = ref(f"manifests/variant/{target.variant}.json")
    return ServedTarget(target=target, manifest=manifest, weights_bytes=100, endpoints=("127.0.0.1:8001",))


def deployable(target: Target) -> Deployable:
    return Deployable(target=target, manifest=ref(f"manifests/variant/{target.variant}.json"), weights_bytes=100)


BASELINE = Deployable(target=Target(model=MODEL, version=0, variant="bf16"), manifest=BASE_FOLDER, weights_bytes=10)


def turn(*, first: bool = True, epoch: int = 0) -> TurnGranted:
    return TurnGranted(baseline=BASELINE, epoch=epoch, first=first)


def written(version: int = 1) -> ManifestWritten:
    return ManifestWritten(ref=ref(f"versions/{MODEL}/{version}/manifest.json"))


def staged(variant: str, version: int = 1) -> f.VariantStaged:
    request = f.StageRequested(
        release_id=RELEASE,
        candidate=deployable(target(variant, version)),
        baseline=BASELINE,
        purpose="benchmark",
        load=policy().load,
    )
    return f.VariantStaged(
        lease_id="l",
        candidate=served(target(variant, version)),
        baseline=served(BASELINE.target),
        request=request,
        load_s=1.0,
    )


def summary(target: Target, ttft_p95: float = 100.0, tps: float = 50.0) -> SideSummary:
    figures = f.Statistics(count=40, mean=50.0, p50=50.0, p95=ttft_p95)
    return SideSummary(
        target=target,
        requests=40,
        errors=0,
        ttft_ms=figures,
        itl_ms=figures,
        e2e_ms=figures,
        tps_request=figures,
        tps_system=tps,
        output_tokens=100,
        goodput_rps=2.0,
    )


def gate(name: str = "ttft_ms.p95", verdict: str = "pass") -> f.GateResult:
    return f.GateResult(name=name, verdict=verdict, value=1.0, limit=2.0, reason=f"it is a {verdict}")


def benchmarked(
    variant: str, version: int = 1, *, verdict: str = "pass", gates=None, **figures
) -> f.VariantBenchmarked:
    measured = target(variant, version)
    return f.VariantBenchmarked(
        target=measured,
        baseline=BASELINE.target,
        report=ref("reports/x.json"),
        attempt=1,
        hardware="a machine",
        candidate_summary=summary(measured, **figures),
        baseline_summary=summary(BASELINE.target),
        gates=(gate(verdict=verdict),) if gates is None else gates,
        verdict=verdict,
    )


def evaluated(
    variant: str = "int8", version: int = 1, *, verdict: str = "pass", names=("basics",), **about
) -> f.VariantEvaluated:
    about = {"rows_digest": digest_of(b"rows"), "asked": 60, "available": 60, "verdict": verdict, **about}
    return f.VariantEvaluated(
        target=target(variant, version),
        baseline=BASELINE.target,
        report=ref("reports/evaluation.json"),
        results=tuple(EvaluationSummary(name=name, **about) for name in names),
        verdict=verdict,
        reason="walked",
    )


def failed(variant: str, step: str = "quantise", code: str = "engine_failed", **fields) -> f.VariantFailed:
    return f.VariantFailed(variant=variant, step=step, code=code, reason="it broke", **fields)


def unstaged(variant: str, code: str = "insufficient_memory") -> f.VariantFailed:
    """The pair could not be staged for the rehearsal."""
    return failed(variant, "stage", code).model_copy(update={"purpose": "rehearsal"})


def route(
    active: Target | None = None,
    canary: Target | None = None,
    *,
    weight=0.1,
    epoch=1,
    quarantined=(),
    shadow: Target | None = None,
) -> Route:
    return Route(
        model=MODEL,
        epoch=epoch,
        active=served(active) if active else None,
        canary=CanaryShare(served=served(canary), weight_ratio=weight) if canary else None,
        quarantined=quarantined,
        shadow=ShadowShare(served=served(shadow), share_ratio=0.1) if shadow else None,
    )


def changed(to: Route, cause: str = "promote") -> f.DeploymentChanged:
    return f.DeploymentChanged(route=to, cause=cause, at=START)


def assessed(variant: str, weight: float = 0.1, verdict: str = "pass") -> f.CanaryAssessed:
    return f.CanaryAssessed(
        target=target(variant), weight_ratio=weight, requests=100, verdict=verdict, reason="it is so"
    )


def shadow_assessed(variant: str, verdict: str = "pass") -> f.ShadowAssessed:
    return f.ShadowAssessed(
        target=target(variant), share_ratio=0.1, requests=100, verdict=verdict, reason="it was so unseen"
    )


EXPIRES = START.replace(year=2126)


def certificate(trigger: str, *, of: ReleasePolicy | None = None, variant: str = "int8", **changes):
    given = {
        "trigger": trigger,
        "fault": "error_ratio 1.0",
        "injected_at": START,
        "alert_event_id": "a",
        "route_event_id": "d",
        "detect_s": 2.0,
        "switch_s": 0.1,
        "verify_s": 3.0,
        "candidate_digest": deployable(target(variant)).manifest.digest,
        "fallback_digest": BASELINE.manifest.digest,
        "expires_at": EXPIRES,
        "policy_digest": digest_of_json((of or careful_policy()).model_dump(mode="json")),
    }
    return f.RehearsalCertificate(**{**given, **changes})


def rehearsed(verdict: str = "pass", *, of: ReleasePolicy | None = None, variant: str = "int8", certificates=None):
    """A rehearsal of a policy (a careful one), by default with everything that a pass needs."""
    if certificates is None:
        certificates = tuple(certificate(trigger.name, of=of, variant=variant) for trigger in AUTOMATIC)
    return f.RehearsalCompleted(
        release_id=RELEASE,
        variant=variant,
        verdict=verdict,
        reason="walked",
        certificates=certificates,
    )


def approval(digest: str, release_id: str = RELEASE) -> f.ApprovalGranted:
    return f.ApprovalGranted(release_id=release_id, manifest_digest=digest)


def cancel(release_id: str = RELEASE) -> f.ReleaseCancelled:
    return f.ReleaseCancelled(release_id=release_id, reason="not today")


def abandoned() -> f.WorkAbandoned:
    return f.WorkAbandoned(
        service="quantiser",
        cause_type="slipway.variant.requested.v1",
        cause_id="c",
        dead_letter_sequence=7,
        code="internal_error",
        reason="boom",
    )


def refused(variant: str = "int8", code: str = "stale_epoch") -> f.PromotionRefused:
    return f.PromotionRefused(target=target(variant), code=code, reason="the route moved")


def key_of(entry) -> str:
    """Return the key of an outbox entry within its release."""
    return entry.key.removeprefix(f"{entry.correlation_id}:")


def without_progress(entries) -> list:
    """Return the entries of an outbox that are no progress of the release."""
    return [entry for entry in entries if entry.type != f.ReleaseProgressed.TYPE]


# -- ports ------------------------------------------------------------------------------------------------------------


class FixedClock:
    """A clock that moves only when told to."""

    def __init__(self, now: datetime = START) -> None:
        self.at = now

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class FakeRecords:
    """Records in memory under the same compare-and-set as the real bucket."""

    def __init__(self, shared=None) -> None:
        self.kept: dict[str, Entry] = {} if shared is None else shared
        self.conflicts = 0
        """How many of the next writes meet a conflict with another writer."""

    async def get(self, key):
        return self.kept.get(key)

    async def create(self, key, value):
        if key in self.kept:
            raise Conflict(key)
        return self._write(key, value)

    async def update(self, key, value, revision):
        if self.conflicts:
            self.conflicts -= 1
            raise Conflict(key)
        if key not in self.kept or self.kept[key].revision != revision:
            raise Conflict(key)
        return self._write(key, value)

    def _write(self, key, value):
        revision = 1 + max((entry.revision for entry in self.kept.values()), default=0)
        second = type(value).model_validate_json(value.model_dump_json())
        self.kept[key] = Entry(second, revision)
        return revision

    async def keys(self):
        return sorted(self.kept)


class FakeArtifacts:
    """Artifacts in memory, create-only."""

    def __init__(self) -> None:
        weights = f"checkpoints/{MODEL}/manifests/folder/a.json"
        self.bases = {"bases/tiny/1.json": BASE}
        self.present: dict[str, bytes] = {ref(weights).uri: weights.encode()}
        self.versions: dict[str, VersionManifest] = {}
        self.deployments: dict[str, DeploymentRecord] = {}
        self.approvals: dict[str, ApprovalRecord] = {}
        self.erased: list[tuple[str, int, str]] = []
        self.failing: Exception | None = None
        """What writing the manifest of a version raises."""
        self.silent = False
        """Whether writing the manifest of a version never returns."""

    async def find_base(self, key):
        return self.bases.get(key)

    async def verify(self, artifact):
        data = self.present.get(artifact.uri)
        if data is None:
            raise Permanent("artifact_not_found", f"{artifact.uri} does not exist.")
        if digest_of(data) != artifact.digest or len(data) != artifact.size_bytes:
            raise Permanent("digest_mismatch", f"{artifact.uri} is something else.")

    async def sizes(self, model):
        checkpoints = {uri: len(data) for uri, data in self.present.items() if f"/checkpoints/{model}/" in uri}
        versions = [each for each in self.versions.values() if each.model == model]
        return checkpoints | {
            each.manifest.digest: each.weights_bytes for version in versions for each in version.variants
        }

    async def models(self):
        return sorted({each.model for each in self.versions.values()})

    async def versions_of(self, model, releases=16):
        of = sorted((each for each in self.versions.values() if each.model == model), key=lambda each: each.version)
        if not of:
            return StoredVersions()
        newest = Target(model=model, version=of[-1].version, variant=of[-1].variants[0].variant)
        return StoredVersions(of[-1].version, {each.release_id: each.version for each in of[-releases:]}, newest)

    async def find_figures(self, model, version):
        manifest = self.versions.get(f"versions/{model}/{version}/manifest.json")
        return None if manifest is None else manifest.evals

    async def put_version(self, manifest):
        if self.silent:
            await asyncio.Event().wait()
        if self.failing is not None:
            raise self.failing
        key = f"versions/{manifest.model}/{manifest.version}/manifest.json"
        data = canonical_json(self.versions.setdefault(key, manifest).model_dump(mode="json"))
        return ArtifactRef(uri=f"s3://slipway/{key}", digest=digest_of(data), size_bytes=len(data))

    async def put_approval(self, record):
        self.approvals.setdefault(record.order_id, record)

    async def erase_text(self, model, version, kind):
        if f"versions/{model}/{version}/manifest.json" not in self.versions:
            raise Permanent("artifact_not_found", f"{model} has no version {version}.")
        self.erased.append((model, version, kind))
        return (digest_of(kind.encode()),)

    async def put_deployment(self, record):
        key = f"versions/{record.target.model}/{record.target.version}/deployments/{record.epoch}"
        first = self.deployments.setdefault(f"{key}.json", record)
        if first.cause_id != record.cause_id and first.deployed_at != record.deployed_at:
            self.deployments.setdefault(f"{key}-{record.cause_id}.json", record)


class FakeInbox:
    """Announcements in memory, by sequence."""

    def __init__(self) -> None:
        self.stored: dict[int, Event] = {}
        self.opened: dict[str, f.ReleaseOpened] = {}

    async def read(self, sequence):
        return self.stored.get(sequence)

    async def last_opened(self, model):
        return self.opened.get(model)


FakePublisher = MemoryPublisher


class World:
    """Everything around a registry, in memory; `ports()` is a process's, which knows nothing of an earlier one."""

    def __init__(self, **changes) -> None:
        self.bucket = MemoryBucket()
        self.releases = MemoryRecords(Release, self.bucket)
        self.models = MemoryRecords(ModelRecord, self.bucket)
        self.announcements = MemoryRecords(Announcements, self.bucket)
        self.inbox = FakeInbox()
        self.policies = FakeRecords()
        self.attachments = FakeRecords()
        self.routes = FakeRecords()
        self.artifacts = FakeArtifacts()
        self.teams: tuple[Team, ...] = ()
        self.clock = FixedClock()
        self.publisher = MemoryPublisher(now_s=self.now_s)
        vars(self).update(changes)

    def now_s(self) -> float:
        return self.clock.monotonic()

    def ports(self) -> Ports:
        def store(records):
            return RecordStore(
                "releases", records, self.publisher, service="registry", sleep=no_wait, boottime=self.now_s
            )

        return Ports(
            releases=store(self.releases),
            models=store(self.models),
            announcements=store(self.announcements),
            inbox=self.inbox,
            policies=self.policies,
            attachments=self.attachments,
            routes=self.routes,
            artifacts=self.artifacts,
            teams=lambda: self.teams,
        )
