"""Writes the merged model into the store: tensors merged by PEFT's own code, and small files."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.manifests import FileEntry
from services.merger import domain
from services.merger.adapters.inputs import MergeInputs
from services.merger.adapters.peft_model import LayerwiseMerge, load_unmerged
from services.merger.adapters.safetensors_header import read_config
from services.merger.adapters.streaming import (
    NonFiniteError,
    TensorMerge,
    UnchangedWeights,
    UnmergedModulesError,
    dump_json,
    write_merged,
)
from services.merger.adapters.tensors import Digests
from services.merger.adapters.torch_checks import CheckResult
from services.merger.ports import Blobs
from shared.errors import Permanent

StepProgress = Callable[[str, str], Callable[[int, int], None]]


@dataclass(frozen=True)
class Written:
    """The merged model's files, and the digests of tensors read and written."""

    files: tuple[FileEntry, ...]
    read: Digests
    written: Digests


def write(store: Blobs, inputs: MergeInputs, checked: CheckResult, step_progress: StepProgress) -> Written:
    """Write the merged model into the store, without committing it.

    Raises:
        Permanent: `non_finite_weights`, `unsupported_adapter` or `digest_mismatch`.
    """
    is_lora = inputs.job.kind == "lora"
    folder, metadata = (
        (inputs.base_folder, inputs.base_metadata)
        if is_lora
        else (inputs.checkpoint_folder, inputs.checkpoint_metadata)
    )
    merge: TensorMerge = UnchangedWeights()
    if is_lora:
        unmerged = load_unmerged(inputs.base, inputs.checkpoint, checked.vocabulary.rows)
        merge = LayerwiseMerge(unmerged, checked.replacements)
    try:
        files, read, written = write_merged(
            store,
            folder,
            metadata,
            merge=merge,
            shapes=checked.shapes,
            dtype=inputs.job.dtype,
            progress=step_progress("merge", "tensors"),
            ignored=checked.ignored,
        )
    except UnmergedModulesError as error:
        raise Permanent("unsupported_adapter", f"{error}.") from error
    except NonFiniteError as error:
        raise Permanent("non_finite_weights", f"After merging, {error}.", tensors=[error.name]) from error
    return Written((*files, *copy_small_files(store, inputs, checked, step_progress("upload", "files"))), read, written)


def copy_small_files(
    store: Blobs, inputs: MergeInputs, checked: CheckResult, progress: Callable[[int, int], None]
) -> list[FileEntry]:
    """Copy tokenizer and settings byte by byte; rewrite only configurations that do not describe the merged model.

    Rewritten are dtype, vocabulary size, special tokens and code references. Files come from the base, except settings
    of full weights, and a tokenizer or chat template that the checkpoint changes.
    """
    paths = {path: inputs.base / path for path in inputs.base_folder.sizes if domain.is_copied(path)}
    own = {path: inputs.checkpoint / path for path in inputs.checkpoint_folder.sizes}
    paths = {
        path: local
        for path, local in paths.items()
        if not (domain.is_tokenizer_file(path) and domain.takes_from_checkpoint(path, checked.tokenizer))
    }
    paths |= {
        path: local
        for path, local in own.items()
        if domain.is_tokenizer_file(path) and domain.takes_from_checkpoint(path, checked.tokenizer)
    }
    if inputs.job.kind == "full":
        paths |= {path: local for path, local in own.items() if path in domain.OWN_SETTINGS}
    config = json.loads(paths[domain.MODEL_CONFIG].read_text(encoding="utf-8"))
    rewritten = merged_config(config, checked.vocabulary, inputs.job.dtype)
    if rewritten != config:
        paths[domain.MODEL_CONFIG] = write_config(inputs, domain.MODEL_CONFIG, rewritten)
    generation = read_config(paths[domain.GENERATION_CONFIG]) if domain.GENERATION_CONFIG in paths else None
    if generation is not None and (inputs.job.kind == "full" or checked.end_id is not None):
        token_ids = {} if domain.GENERATION_CONFIG in own else checked.token_ids
        if inputs.job.kind == "lora":
            token_ids = domain.with_end(generation, checked.end_id)
        rewritten = {**domain.strip_remote_code(generation), **token_ids}
        if rewritten != generation:
            paths[domain.GENERATION_CONFIG] = write_config(inputs, domain.GENERATION_CONFIG, rewritten)
    files = []
    for path, local in sorted(paths.items()):
        files.append(store.put_file(local, path))
        progress(len(files), len(paths))
    return files


def write_config(inputs: MergeInputs, name: str, config: dict[str, Any]) -> Path:
    """Write a configuration to a new file, because the original is read again, and return its path."""
    path = inputs.job.scratch_dir / f"merged-{name}"
    path.write_bytes(dump_json(config))
    return path


def merged_config(config: dict[str, Any], vocabulary: domain.Vocabulary, dtype: domain.SaveDtype) -> dict[str, Any]:
    """Return the merged model's configuration."""
    merged = domain.strip_remote_code(config)
    for key in ("dtype", "torch_dtype"):
        if key in merged:
            merged[key] = dtype
    if vocabulary.rows != vocabulary.base_rows:
        holder = merged if "vocab_size" in merged else merged.get("text_config", merged)
        holder["vocab_size"] = vocabulary.rows
    return merged
