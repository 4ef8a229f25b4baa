"""The inputs of a merge: base and checkpoint in the store, and local copies of their small files."""

from dataclasses import dataclass
from pathlib import Path

from services.merger import domain
from services.merger.adapters.remote_folder import OnProgress, RemoteFolder
from services.merger.adapters.safetensors_header import read_adapter, read_folder
from services.merger.ports import Blobs, MergeJob
from services.merger.rejections import raise_rejection
from shared.errors import Permanent


@dataclass(frozen=True)
class MergeInputs:
    """A job's base and checkpoint: folders in the store, headers, and local folders with their small files."""

    job: MergeJob
    base_folder: RemoteFolder
    checkpoint_folder: RemoteFolder
    base_metadata: domain.FolderMetadata
    checkpoint_metadata: domain.FolderMetadata
    base: Path
    checkpoint: Path

    @property
    def adapter(self) -> Path:
        """Return the local path of the LoRA's weights."""
        return self.checkpoint / domain.ADAPTER_WEIGHTS


def open_inputs(store: Blobs, job: MergeJob, progress: OnProgress) -> MergeInputs:
    """Read headers and configurations, reject unsuitable inputs, then download the small files.

    Raises:
        Permanent: The checkpoint is rejected.
    """
    base, checkpoint = RemoteFolder(store, job.base), RemoteFolder(store, job.checkpoint)
    raise_rejection(domain.assess_files(job.kind, checkpoint.sizes))
    base_dir, checkpoint_dir = job.scratch_dir / "base", job.scratch_dir / "checkpoint"
    config = domain.ADAPTER_CONFIG if job.kind == "lora" else domain.MODEL_CONFIG
    raise_rejection(domain.assess_base_files(base.sizes))
    raise_rejection(domain.assess_small_files(checkpoint.sizes) or domain.assess_small_files(base.sizes))
    base.fetch([domain.MODEL_CONFIG], base_dir)
    checkpoint.fetch([config], checkpoint_dir)
    base_metadata = read_folder(base, base_dir / domain.MODEL_CONFIG)
    read = read_adapter if job.kind == "lora" else read_folder
    checkpoint_metadata = read(checkpoint, checkpoint_dir / config)
    reject_by_headers(job, base_metadata, checkpoint_metadata)
    base.fetch([path for path in base.sizes if domain.is_copied(path)], base_dir)
    small = [path for path in checkpoint.sizes if domain.is_copied(path)]
    weights = [domain.ADAPTER_WEIGHTS] if job.kind == "lora" else []
    checkpoint.fetch([*small, *weights], checkpoint_dir, progress)
    return MergeInputs(job, base, checkpoint, base_metadata, checkpoint_metadata, base_dir, checkpoint_dir)


def reject_by_headers(job: MergeJob, base: domain.FolderMetadata, checkpoint: domain.FolderMetadata) -> None:
    """Reject unsuitable configurations and headers, without torch and without reading weights.

    Raises:
        Permanent: The checkpoint is rejected.
    """
    raise_rejection(domain.assess_weights_files(checkpoint.weights))
    raise_rejection(domain.assess_weights_files(base.weights))
    raise_rejection(domain.assess_distinct(checkpoint.weights))
    raise_rejection(domain.assess_distinct(base.weights))
    raise_rejection(domain.assess_base(base))
    if base.config is None or checkpoint.config is None:
        of_checkpoint = domain.ADAPTER_CONFIG if job.kind == "lora" else domain.MODEL_CONFIG
        name = f"base's {domain.MODEL_CONFIG}" if base.config is None else f"checkpoint's {of_checkpoint}"
        raise Permanent("truncated_weights", f"The {name} is not a JSON object.")
    if job.kind == "lora":
        raise_rejection(domain.assess_adapter_config(checkpoint.config, job.base_ref))
        raise_rejection(domain.assess_recorded(checkpoint.config, job.hyperparameters))
        raise_rejection(domain.assess_adapter_dtypes(checkpoint.tensors))
    else:
        raise_rejection(domain.assess_unquantised("checkpoint", checkpoint.config))
        raise_rejection(domain.assess_quantised("checkpoint", checkpoint.tensors))
