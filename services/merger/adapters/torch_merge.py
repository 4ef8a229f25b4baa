"""The heavy step itself: every tensor, merged by PEFT's own code, from the store into shards in the store."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.manifests import FileEntry
from services.merger import domain
from services.merger.adapters.inputs import Rooms
from services.merger.adapters.peft_model import LayerwiseMerge, load_unmerged
from services.merger.adapters.safetensors_header import read_config
from services.merger.adapters.streaming import (
    LeftOverError,
    NoMerge,
    NonFiniteError,
    TensorMerge,
    dump_json,
    write_merged,
)
from services.merger.adapters.tensors import Digests
from services.merger.adapters.torch_checks import Checked
from shared.errors import Permanent
from shared.storage.blobs import Store

Tell = Callable[[str, str], Callable[[int, int], None]]


@dataclass(frozen=True)
class Written:
    """The files of the merged model, and the digests of the tensors that were read and written."""

    files: tuple[FileEntry, ...]
    read: Digests
    written: Digests


def write(store: Store, rooms: Rooms, checked: Checked, tell: Tell) -> Written:
    """Write the merged model into the store, not committed.

    Raises:
        Permanent: `non_finite_weights`, `unsupported_adapter`, `digest_mismatch`.
    """
    is_lora = rooms.order.kind == "lora"
    shelf, facts = (rooms.base_shelf, rooms.base_facts) if is_lora else (rooms.checkpoint_shelf, rooms.checkpoint_facts)
    merge: TensorMerge = NoMerge()
    if is_lora:
        unmerged = load_unmerged(rooms.base, rooms.checkpoint, checked.vocabulary.rows)
        merge = LayerwiseMerge(unmerged, checked.replacements)
    try:
        files, read, written = write_merged(
            store,
            shelf,
            facts,
            merge=merge,
            shapes=checked.shapes,
            dtype=rooms.order.dtype,
            progress=tell("merge", "tensors"),
            ignored=checked.ignored,
        )
    except LeftOverError as error:
        raise Permanent("unsupported_adapter", f"{error}.") from error
    except NonFiniteError as error:
        raise Permanent("non_finite_weights", f"After merging, {error}.", tensors=[error.name]) from error
    return Written((*files, *carry_over(store, rooms, checked, tell("upload", "files"))), read, written)


def carry_over(store: Store, rooms: Rooms, checked: Checked, tell: Callable[[int, int], None]) -> list[FileEntry]:
    """Copy tokenizer and settings byte by byte; only a configuration that lies is written anew.

    It lies when it names another dtype, vocabulary or special token than the merged model's, or code to import from
    the folder. All comes from the base, but the settings of full weights and added tokens, which are the checkpoint's.
    """
    paths = {path: rooms.base / path for path in rooms.base_shelf.sizes if domain.is_carried_over(path)}
    own = {path: rooms.checkpoint / path for path in rooms.checkpoint_shelf.sizes}
    if checked.own_tokenizer:
        paths = {path: local for path, local in paths.items() if not domain.is_tokenizer_file(path)}
        paths |= {path: local for path, local in own.items() if domain.is_tokenizer_file(path)}
    if rooms.order.kind == "full":
        paths |= {path: local for path, local in own.items() if path in domain.OWN_SETTINGS}
    config = json.loads(paths[domain.MODEL_CONFIG].read_text(encoding="utf-8"))
    honest = honest_config(config, checked.vocabulary, rooms.order.dtype)
    if honest != config:
        paths[domain.MODEL_CONFIG] = write_anew(rooms, domain.MODEL_CONFIG, honest)
    generation = read_config(paths[domain.GENERATION_CONFIG]) if domain.GENERATION_CONFIG in paths else None
    if generation is not None and rooms.order.kind == "full":
        token_ids = {} if domain.GENERATION_CONFIG in own else checked.token_ids
        honest = {**domain.strip_remote_code(generation), **token_ids}
        if honest != generation:
            paths[domain.GENERATION_CONFIG] = write_anew(rooms, domain.GENERATION_CONFIG, honest)
    files = []
    for path, local in sorted(paths.items()):
        files.append(store.put_file(local, path))
        tell(len(files), len(paths))
    return files


def write_anew(rooms: Rooms, name: str, config: dict[str, Any]) -> Path:
    """Write a configuration beside the one that came, which the proof still reads."""
    path = rooms.order.room / f"honest-{name}"
    path.write_bytes(dump_json(config))
    return path


def honest_config(config: dict[str, Any], vocabulary: domain.Vocabulary, dtype: domain.SaveDtype) -> dict[str, Any]:
    """Return the configuration of the merged model."""
    honest = domain.strip_remote_code(config)
    for key in ("dtype", "torch_dtype"):
        if key in honest:
            honest[key] = dtype
    if vocabulary.rows != vocabulary.base_rows:
        holder = honest if "vocab_size" in honest else honest.get("text_config", honest)
        holder["vocab_size"] = vocabulary.rows
    return honest
