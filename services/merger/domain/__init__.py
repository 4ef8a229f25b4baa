"""The merger's pure decisions: output keys, shard sizes, file selection, and rejections."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any, Literal

from contracts.facts import BaseModelRef, Weights
from contracts.manifests import FileEntry
from contracts.vocabulary import digest_of_json
from decisions.checkpoints.adapters import (
    ADAPTER_CONFIG,
    assess_adapter_config,
    assess_recorded,
    assess_served_adapter,
    quantised_base,
    recorded_settings,
)
from decisions.checkpoints.architectures import assess_unquantised
from decisions.checkpoints.rejection import Rejection
from services.merger.domain.checks import (
    ADAPTER_WEIGHTS,
    MODEL_CONFIG,
    WEIGHTS,
    WEIGHTS_INDEX,
    AdapterValues,
    CheckpointKind,
    FolderMetadata,
    TensorInfo,
    WeightsFile,
    assess_adapter_tensors,
    assess_adapter_values,
    assess_base,
    assess_base_copies,
    assess_base_files,
    assess_base_identity,
    assess_files,
    assess_finite,
    assess_quantised,
    assess_tied,
    assess_weights_files,
    base_tensor_name,
    duplicate_of,
    first_shape_mismatch,
)
from services.merger.domain.full import (
    GENERATION_CONFIG,
    OWN_SETTINGS,
    assess_full_config,
    assess_full_tensors,
    assess_tied_copies,
    changed_token_ids,
    with_end,
)
from services.merger.domain.parity import PARITY_PROMPTS, PROBE_CONVERSATION, ParityLimits, assess_parity
from services.merger.domain.serving import plan_settings_key
from services.merger.domain.vocabulary import (
    TokenizerComparison,
    TokenizerSource,
    Vocabulary,
    assess_declared_rows,
    assess_resized,
    assess_tokenizer,
    assess_vocabulary,
    choose_tokenizer,
    is_vocabulary,
    plan_vocabulary,
    resized,
)
from services.merger.domain.weights import (
    FLOATING_DTYPES,
    ExpectedTensors,
    assess_adapter_dtypes,
    assess_base_tensors,
    assess_distinct,
    assess_floating,
    assess_index,
    without,
)

SaveDtype = Literal["bfloat16", "float16", "float32"]

REVISION = 7  # increase it when the same inputs give other bytes or another verdict
SMALL_FILE_BYTES = 128 * 1024**2
"""Maximum bytes of a file without weights; the largest tokenizers have a third of it."""
SHARD_LIMIT_BYTES = 512_000_000
SMALL_SHARD_BYTES = 32_000_000
TOKENIZER_FILES = frozenset(
    {
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "merges.txt",
        "special_tokens_map.json",
        "spiece.model",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    }
)
TEMPLATE_FILES = frozenset({"chat_template.jinja", "chat_template.json"})
COPIED_SUFFIXES = frozenset({".json", ".jinja", ".txt", ".model"})
NOT_COPIED = frozenset({WEIGHTS_INDEX})


def plan_output_key(
    *,
    model: str,
    base: BaseModelRef,
    weights: Weights,
    dtype: SaveDtype,
    limits: ParityLimits,
    library_versions: Mapping[str, str],
    hyperparameters: Mapping[str, Any],
) -> str:
    """Return the digest of all inputs that determine a merge's outcome."""
    return digest_of_json(
        {
            "step": "merge",
            "revision": REVISION,
            "model": model,
            "base": base.digest,
            "weights": {"kind": weights.kind, "digest": weights.ref.digest},
            "dtype": dtype,
            "limits": asdict(limits),
            "libraries": dict(sorted(library_versions.items())),
            "recorded": recorded_settings(hyperparameters),
            "quantised_base": quantised_base(None, hyperparameters),
        }
    )


def plan_shard_limit(source_sizes: Sequence[int], output_bytes: int) -> int:
    """Return the size limit of output shards, so that a merge needs less memory than two of the largest source shard.

    One shard is filled while the previous is uploaded; together they take half of the largest source shard. The rest is
    for source tensors and a float32 layer. An output that fits one shard is not cut.
    """
    largest = max(source_sizes, default=0)
    if output_bytes <= min(SHARD_LIMIT_BYTES, max(largest, SMALL_SHARD_BYTES)):
        return SHARD_LIMIT_BYTES
    return min(SHARD_LIMIT_BYTES, max(largest // 4, SMALL_SHARD_BYTES))


def plan_shards(sizes: Sequence[tuple[str, int]], limit_bytes: int = SHARD_LIMIT_BYTES) -> list[list[str]]:
    """Group tensors in order into shards of at most `limit_bytes`; a larger tensor gets its own shard."""
    shards: list[list[str]] = []
    free_bytes = 0
    for name, size in sizes:
        if not shards or size > free_bytes:
            shards.append([])
            free_bytes = limit_bytes
        shards[-1].append(name)
        free_bytes -= size
    return shards


def shard_name(position: int, total: int) -> str:
    """Return a shard's file name in `transformers` format; `position` counts from 0."""
    return WEIGHTS if total == 1 else f"model-{position + 1:05d}-of-{total:05d}.safetensors"


def is_tokenizer_file(path: str) -> bool:
    """Return whether a file belongs to the tokenizer or its chat template."""
    return path in TOKENIZER_FILES


def takes_from_checkpoint(path: str, source: TokenizerSource) -> bool:
    """Return whether a tokenizer file comes from the checkpoint instead of the base."""
    if source in {"template", "tokenizer"}:
        return (path in TEMPLATE_FILES) == (source == "template")
    return source == "checkpoint"


def tokenizer_files(
    base: Sequence[FileEntry], checkpoint: Sequence[FileEntry], source: TokenizerSource
) -> list[FileEntry]:
    """Return the tokenizer files of the merged model."""
    kept = [file for file in base if not takes_from_checkpoint(file.path, source)]
    own = [file for file in checkpoint if takes_from_checkpoint(file.path, source)]
    return [file for file in (*kept, *own) if is_tokenizer_file(file.path)]


def is_copied(path: str) -> bool:
    """Return whether a file is copied into the merged model; weights are not."""
    plain = PurePosixPath(path)
    return len(plain.parts) == 1 and plain.suffix in COPIED_SUFFIXES and path not in NOT_COPIED


def assess_small_files(sizes: Mapping[str, int]) -> Rejection | None:
    """Reject configurations, tokenizers and templates above `SMALL_FILE_BYTES`, because they are read whole."""
    for path in sorted(sizes):
        if (is_copied(path) or path == WEIGHTS_INDEX) and sizes[path] > SMALL_FILE_BYTES:
            reason = f"{path} has {sizes[path]} bytes; the limit of files that are not weights is {SMALL_FILE_BYTES}."
            return Rejection("too_large", reason, {"path": path})
    return None


def strip_remote_code(config: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a configuration without the setting that makes engines import code from the folder."""
    return {key: deepcopy(value) for key, value in config.items() if key != "auto_map"}


def tokenizer_digest(files: Sequence[FileEntry]) -> str:
    """Return a digest over all tokenizer and chat template files."""
    tokenizer_files = sorted((file.path, file.digest) for file in files if is_tokenizer_file(file.path))
    return digest_of_json([{"path": path, "digest": digest} for path, digest in tokenizer_files])


def weights_bytes(files: Sequence[FileEntry]) -> int:
    """Return the total bytes of weights files."""
    return sum(file.size_bytes for file in files if file.path.endswith(".safetensors"))


__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "FLOATING_DTYPES",
    "GENERATION_CONFIG",
    "MODEL_CONFIG",
    "OWN_SETTINGS",
    "PARITY_PROMPTS",
    "PROBE_CONVERSATION",
    "SHARD_LIMIT_BYTES",
    "SMALL_FILE_BYTES",
    "SMALL_SHARD_BYTES",
    "WEIGHTS",
    "WEIGHTS_INDEX",
    "AdapterValues",
    "CheckpointKind",
    "ExpectedTensors",
    "FolderMetadata",
    "ParityLimits",
    "Rejection",
    "SaveDtype",
    "TensorInfo",
    "TokenizerComparison",
    "TokenizerSource",
    "Vocabulary",
    "WeightsFile",
    "assess_adapter_config",
    "assess_adapter_dtypes",
    "assess_adapter_tensors",
    "assess_adapter_values",
    "assess_base",
    "assess_base_copies",
    "assess_base_files",
    "assess_base_identity",
    "assess_base_tensors",
    "assess_declared_rows",
    "assess_distinct",
    "assess_files",
    "assess_finite",
    "assess_floating",
    "assess_full_config",
    "assess_full_tensors",
    "assess_index",
    "assess_parity",
    "assess_quantised",
    "assess_recorded",
    "assess_resized",
    "assess_served_adapter",
    "assess_small_files",
    "assess_tied",
    "assess_tied_copies",
    "assess_tokenizer",
    "assess_unquantised",
    "assess_vocabulary",
    "assess_weights_files",
    "base_tensor_name",
    "changed_token_ids",
    "choose_tokenizer",
    "duplicate_of",
    "first_shape_mismatch",
    "is_copied",
    "is_tokenizer_file",
    "is_vocabulary",
    "plan_output_key",
    "plan_settings_key",
    "plan_shard_limit",
    "plan_shards",
    "plan_vocabulary",
    "quantised_base",
    "recorded_settings",
    "resized",
    "shard_name",
    "strip_remote_code",
    "takes_from_checkpoint",
    "tokenizer_digest",
    "tokenizer_files",
    "weights_bytes",
    "with_end",
    "without",
]
