"""Reads the merged model back from the store and compares it with its inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from contracts.facts import Parity
from services.merger import domain
from services.merger.adapters import layerwise, peft_model, tokenizers
from services.merger.adapters.inputs import MergeInputs
from services.merger.adapters.layerwise import Load
from services.merger.adapters.remote_folder import RemoteFolder
from services.merger.adapters.safetensors_header import read_folder
from services.merger.adapters.tensors import TensorReader
from services.merger.adapters.torch_checks import CheckResult
from services.merger.adapters.torch_merge import Written
from services.merger.ports import Blobs, Folder, Rendering

Progress = Callable[[int, int], None]


def measure_parity(
    reference: Callable[[], Any],
    load: layerwise.Load,
    merged: Callable[[], Any],
    load_merged: layerwise.Load,
    *,
    prompts: Sequence[torch.Tensor],
    with_effect: bool,
    progress: Progress,
) -> Parity:
    """Measure the parity of the merged model with base plus LoRA.

    KL is KL(reference || merged), averaged over all positions, in nats.

    Args:
        reference: Builds base plus LoRA, unmerged, without the base's weights.
        load: Reads a base weight.
        merged: Builds the merged model without weights.
        load_merged: Reads a weight of the merged model.
        prompts: Token IDs.
        with_effect: Whether to measure the LoRA's own effect, against the base alone.
        progress: Called with models done and in total.

    Raises:
        ArithmeticError: Logits are not finite, or a tensor's bytes changed between reads.
    """

    def compute_reference(model: Any) -> tuple[list[torch.Tensor], float | None]:
        logits = layerwise.compute_logits(model, prompts)
        progress(1, 3)
        if not with_effect:
            return logits, None
        with model.disable_adapter():
            return logits, compare(logits, layerwise.compute_logits(model, prompts)).mean_kl

    expected, effect = layerwise.run_module_by_module(reference, load, compute_reference)
    progress(2, 3)
    actual = layerwise.run_module_by_module(merged, load_merged, lambda model: layerwise.compute_logits(model, prompts))
    progress(3, 3)
    return compare(expected, actual).model_copy(update={"effect_kl": effect})


def compare(expected: Sequence[torch.Tensor], actual: Sequence[torch.Tensor]) -> Parity:
    """Return the parity of two lists of logits [positions, vocabulary].

    Raises:
        ArithmeticError: A side holds NaN or infinity.
    """
    largest, kl, agreeing, positions = 0.0, 0.0, 0, 0
    for reference, merged in zip(expected, actual, strict=True):
        if not bool(torch.isfinite(reference).all()) or not bool(torch.isfinite(merged).all()):
            msg = "the logits of one side hold NaN or infinity"
            raise ArithmeticError(msg)
        largest = max(largest, float((reference - merged).abs().max()))
        log_p, log_q = torch.log_softmax(reference, dim=-1), torch.log_softmax(merged, dim=-1)
        kl += float((log_p.exp() * (log_p - log_q)).sum())
        agreeing += int((reference.argmax(dim=-1) == merged.argmax(dim=-1)).sum())
        positions += len(reference)
    return Parity(
        prompts=len(expected),
        max_abs_logit_difference=largest,
        mean_kl=max(0.0, kl / positions),  # rounding may give -1e-9
        top1_agreement_ratio=agreeing / positions,
    )


@dataclass(frozen=True)
class Verification:
    """Parity and rendering of the stored model."""

    parity: Parity
    rendering: Rendering


def verify_stored(
    store: Blobs, inputs: MergeInputs, checked: CheckResult, written: Written, progress: Callable[[int, int], None]
) -> Verification:
    """Reread every byte of the stored model; return its parity and rendering.

    Raises:
        ArithmeticError: A tensor's bytes differ from those written, or logits are not finite.
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
    measured = measure_parity(
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
        merged.load(name)  # verifies tensors that the model did not use
    with tokenizers.time_limit():
        return Verification(measured, tokenizers.render(stored, checked.at))


def through_ties(reader: TensorReader, tied: list[str]) -> Load:
    """Return a reader that resolves tied modules to the embedding's matrix."""
    shared = {f"{name}.weight": f"{tied[0]}.weight" for name in tied}
    return lambda name: reader.load(shared.get(name, name))
