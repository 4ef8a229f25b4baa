"""Reads the merged model back from the store and compares it with its inputs."""

from collections.abc import Callable
from dataclasses import dataclass

from contracts.facts import Parity
from services.merger import domain
from services.merger.adapters import parity, peft_model, tokenizers
from services.merger.adapters.inputs import MergeInputs
from services.merger.adapters.layerwise import Load
from services.merger.adapters.remote_folder import RemoteFolder
from services.merger.adapters.safetensors_header import read_folder
from services.merger.adapters.tensors import TensorReader
from services.merger.adapters.torch_checks import CheckResult
from services.merger.adapters.torch_merge import Written
from services.merger.ports import Blobs, Folder, Rendering


@dataclass(frozen=True)
class Verification:
    """Measurements of the stored model."""

    parity: Parity
    rendering: Rendering


def verify_stored(
    store: Blobs, inputs: MergeInputs, checked: CheckResult, written: Written, progress: Callable[[int, int], None]
) -> Verification:
    """Return the parity and rendering of the stored model; every byte of it is read again.

    Raises:
        ArithmeticError: A tensor has other bytes than were written, or leads to logits that are not finite.
    """
    folder = RemoteFolder(store, Folder("", written.files, ""))
    stored = folder.fetch([path for path in folder.sizes if domain.is_copied(path)], inputs.job.scratch_dir / "stored")
    metadata = read_folder(folder, stored / domain.MODEL_CONFIG)
    merged = TensorReader(folder, metadata, written.written)
    is_lora = inputs.job.kind == "lora"
    rows = checked.vocabulary.rows
    if is_lora:
        reference = TensorReader(inputs.base_folder, inputs.base_metadata, written.read, checked.replacements)
    else:
        reference = TensorReader(inputs.checkpoint_folder, inputs.checkpoint_metadata, written.read)
    measured = parity.measure_parity(
        lambda: (
            peft_model.load_unmerged(inputs.base, inputs.checkpoint, rows)
            if is_lora
            else peft_model.empty_base(inputs.checkpoint)
        ),
        through_ties(reference, checked.tied),
        lambda: peft_model.empty_base(stored),
        through_ties(merged, checked.tied),
        prompts=checked.prompts,
        with_effect=is_lora and rows == checked.vocabulary.base_rows,
        progress=progress,
    )
    for name in sorted(merged.unread):
        merged.load(name)  # tensors that the model did not use are verified, too
    with tokenizers.time_limit():
        return Verification(measured, tokenizers.render(stored, checked.at))


def through_ties(reader: TensorReader, tied: list[str]) -> Load:
    """Return a function that reads the embedding for each of the modules that share its matrix."""
    shared = {f"{name}.weight": f"{tied[0]}.weight" for name in tied}
    return lambda name: reader.load(shared.get(name, name))
