"""Every fact that travels on the bus; `FACTS` finds a fact's class by its CloudEvents type."""

from .admission import (
    BaseModelRef,
    CheckpointMerged,
    CheckpointReady,
    CheckpointRejected,
    EvalResult,
    MergeMethod,
    Parity,
    ReleaseOpened,
    Training,
    Weights,
)
from .choice import Choice, Contender
from .fact import Fact
from .ops import (
    ApprovalGranted,
    DrillFault,
    DrillOrdered,
    OrderRefused,
    QuarantineLifted,
    ReleaseCancelled,
    RollbackOrdered,
)
from .release import (
    ApprovalAwaited,
    CanaryAssessed,
    DeadlinePassed,
    DeploymentChanged,
    PromotionRefused,
    ReleaseFinished,
    Step,
    TrafficRequested,
    VersionRegistered,
    WorkAbandoned,
)
from .staging import (
    GateResult,
    RehearsalCertificate,
    RehearsalCompleted,
    RehearsalRequested,
    ServedQuality,
    StagingReleased,
    StagingRequested,
    Statistics,
    VariantBenchmarked,
    VariantStaged,
)
from .variants import (
    CALIBRATION_DEFAULTS,
    EngineVersion,
    Measurement,
    PrecisionCheck,
    Processor,
    Quality,
    QuantiseSettings,
    RegisteredVariant,
    VariantFailed,
    VariantQuantised,
    VariantRequested,
    WorkProgressed,
)
from .watch import (
    AlertRaised,
    AlertResolved,
    AlertUpdated,
    Inference,
    InferenceBatch,
    RollbackCompleted,
    RollbackFailed,
    RollbackStarted,
    RollbackTimeline,
    WindowSummarised,
)

FACTS: dict[str, type[Fact]] = {
    fact.TYPE: fact
    for fact in (
        CheckpointReady, ReleaseOpened, CheckpointRejected, CheckpointMerged, VariantRequested, VariantQuantised,
        VariantFailed, WorkProgressed, VersionRegistered, StagingRequested, StagingReleased, VariantStaged,
        VariantBenchmarked, RehearsalRequested, RehearsalCompleted, ApprovalAwaited, ApprovalGranted,
        TrafficRequested, DeploymentChanged, PromotionRefused, CanaryAssessed, ReleaseFinished, ReleaseCancelled,
        DrillOrdered, RollbackOrdered, QuarantineLifted, OrderRefused, DeadlinePassed, WorkAbandoned, WindowSummarised,
        AlertRaised, AlertUpdated, AlertResolved, RollbackStarted, RollbackCompleted, RollbackFailed, InferenceBatch,
    )
}  # fmt: skip

__all__ = [
    "CALIBRATION_DEFAULTS", "FACTS", "AlertRaised", "AlertResolved", "AlertUpdated", "ApprovalAwaited",
    "ApprovalGranted", "BaseModelRef", "CanaryAssessed", "CheckpointMerged", "CheckpointReady", "CheckpointRejected",
    "Choice", "Contender", "DeadlinePassed", "DeploymentChanged", "DrillFault", "DrillOrdered", "EngineVersion",
    "EvalResult", "Fact", "GateResult", "Inference", "InferenceBatch", "Measurement", "MergeMethod", "OrderRefused",
    "Parity", "PrecisionCheck", "Processor", "PromotionRefused", "Quality", "QuantiseSettings", "QuarantineLifted",
    "RegisteredVariant", "RehearsalCertificate", "RehearsalCompleted", "RehearsalRequested", "ReleaseCancelled",
    "ReleaseFinished", "ReleaseOpened", "RollbackCompleted", "RollbackFailed", "RollbackOrdered", "RollbackStarted",
    "RollbackTimeline", "ServedQuality", "StagingReleased", "StagingRequested", "Statistics", "Step",
    "TrafficRequested", "Training", "VariantBenchmarked", "VariantFailed", "VariantQuantised", "VariantRequested",
    "VariantStaged", "VersionRegistered", "Weights", "WindowSummarised", "WorkAbandoned", "WorkProgressed",
]  # fmt: skip
