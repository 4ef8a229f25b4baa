"""What a merge will write: its key, its shards, and the files that it carries over from the base."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any, Literal

from contracts.facts import BaseModelRef, Weights
from contracts.manifests import FileEntry
from contracts.vocabulary import digest_of_json
from services.merger.domain.checks import WEIGHTS, WEIGHTS_INDEX, Refusal
from services.merger.domain.parity import ParityLimits
from services.merger.domain.recorded import recorded_settings

SaveDtype = Literal["bfloat16", "float16", "float32"]

REVISION = 3  # raise it when the same inputs would give other bytes or another verdict
SMALL_FILE_BYTES = 128 * 1024**2
"""Most bytes of a file beside the weights: the largest tokenizers have a third of it."""
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
CARRIED_SUFFIXES = frozenset({".json", ".jinja", ".txt", ".model"})
NOT_CARRIED = frozenset({WEIGHTS_INDEX})


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
    """Return the digest of everything that decides the outcome of a merge."""
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
        }
    )


def plan_shard_limit(source_sizes: Sequence[int], output_bytes: int) -> int:
    """Return the most bytes of an output shard, so that a merge takes less than two of the largest source shard.

    One shard is filled while the one before it is uploaded: together half of the largest source shard. The rest is
    for the tensor that is read, the next one, and a layer in float32. What fits into one shard as a whole is not cut.
    """
    largest = max(source_sizes, default=0)
    if output_bytes <= min(SHARD_LIMIT_BYTES, max(largest, SMALL_SHARD_BYTES)):
        return SHARD_LIMIT_BYTES
    return min(SHARD_LIMIT_BYTES, max(largest // 4, SMALL_SHARD_BYTES))


def plan_shards(sizes: Sequence[tuple[str, int]], limit_bytes: int = SHARD_LIMIT_BYTES) -> list[list[str]]:
    """Group tensors, in their order, into shards of at most `limit_bytes`; a larger tensor gets its own shard."""
    shards: list[list[str]] = []
    room = 0
    for name, size in sizes:
        if not shards or size > room:
            shards.append([])
            room = limit_bytes
        shards[-1].append(name)
        room -= size
    return shards


def shard_name(position: int, total: int) -> str:
    """Name a shard as `transformers` expects it; `position` counts from 0."""
    return WEIGHTS if total == 1 else f"model-{position + 1:05d}-of-{total:05d}.safetensors"


def is_tokenizer_file(path: str) -> bool:
    """Return whether a file belongs to the tokenizer or its chat template."""
    return path in TOKENIZER_FILES


def is_carried_over(path: str) -> bool:
    """Return whether a file of the base belongs into the merged model as it is (weights are written anew)."""
    plain = PurePosixPath(path)
    return len(plain.parts) == 1 and plain.suffix in CARRIED_SUFFIXES and path not in NOT_CARRIED


def assess_small_files(sizes: Mapping[str, int]) -> Refusal | None:
    """Refuse configurations, tokenizers and templates that are larger than such files ever are: they are read whole."""
    for path in sorted(sizes):
        if (is_carried_over(path) or path == WEIGHTS_INDEX) and sizes[path] > SMALL_FILE_BYTES:
            reason = f"{path} has {sizes[path]} bytes; files beside the weights may have {SMALL_FILE_BYTES} each."
            return Refusal("too_large", reason, {"path": path})
    return None


def strip_remote_code(config: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a model's configuration without what would make an engine import code from its folder."""
    return {key: deepcopy(value) for key, value in config.items() if key != "auto_map"}


def tokenizer_digest(files: Sequence[FileEntry]) -> str:
    """Return one digest of the bytes of all tokenizer and chat template files."""
    found = sorted((file.path, file.digest) for file in files if is_tokenizer_file(file.path))
    return digest_of_json([{"path": path, "digest": digest} for path, digest in found])


def weights_bytes(files: Sequence[FileEntry]) -> int:
    """Sum the sizes of the weights among some files."""
    return sum(file.size_bytes for file in files if file.path.endswith(".safetensors"))
