"""Checks that need torch: the tensors that PEFT expects on this base, their values, and the tokenizer."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from contracts.codes import Code
from services.merger import domain
from services.merger.adapters import peft_model, tokenizers
from services.merger.adapters.inputs import MergeInputs
from services.merger.adapters.safetensors_header import read_config
from services.merger.adapters.tensors import RUN_BYTES, Digests, Replacements, is_finite, stream_tensors, tensor_of
from services.merger.ports import Rendering
from services.merger.rejections import raise_rejection
from shared.errors import Permanent, translate
from shared.runtime.clock import SystemClock
from shared.runtime.worker import is_out_of_memory

CONFIG_UNUSABLE = "The checkpoint's config.json cannot be used"


@dataclass(frozen=True)
class CheckResult:
    """Results of the checks, for the merge.

    Attributes:
        vocabulary: The merged model's embedding.
        tokenizer: Source of the merged model's tokenizer.
        replacements: Tensors in the LoRA's file that replace the base's.
        ignored: Tensors that the architecture does not use; not written.
        shapes: New shapes of resized tensors.
        tied: Modules that share one matrix, the embedding first.
        token_ids: Special tokens that the configuration of full weights changes.
        at: Time that chat templates are rendered for.
        rendering: Rendering by the chosen tokenizer of the inputs.
        prompts: Token IDs of the parity prompts.
        end_id: End-of-text token of the checkpoint's tokenizer, if it differs from the base's.
    """

    vocabulary: domain.Vocabulary
    tokenizer: domain.TokenizerSource
    replacements: Replacements
    ignored: set[str]
    shapes: Mapping[str, tuple[int, ...]]
    tied: list[str]
    token_ids: Mapping[str, Any]
    at: datetime
    rendering: Rendering
    prompts: list[torch.Tensor]
    end_id: int | None


def check(inputs: MergeInputs) -> CheckResult:
    """Check a checkpoint against its base, tensor by tensor.

    Raises:
        Permanent: The checkpoint does not fit the base, or its files cannot be read.
    """
    model, rows, tied = build_base(inputs.base)
    expected = peft_model.expected_tensors(model)
    ignored = find_ignored(inputs, model, expected)
    raise_rejection(domain.assess_base_tensors(domain.without(inputs.base_metadata.tensors, ignored), expected))
    included: dict[str, str] = {}
    token_ids: dict[str, Any] = {}
    if inputs.job.kind == "full":
        vocabulary, token_ids = check_full(inputs, rows, expected, ignored)
    else:
        vocabulary, included = check_lora(inputs, rows, tied)
    with tokenizers.time_limit():
        base_size, comparison = compare_tokenizers(inputs)
    raise_rejection(domain.assess_vocabulary(comparison, base_size, vocabulary))
    tokenizer = domain.choose_tokenizer(comparison, vocabulary)
    folder, at = tokenizer_folder(inputs, tokenizer), SystemClock().now()
    with tokenizers.time_limit():
        rendering, prompts = tokenizers.render(folder, at), tokenizers.encode_prompts(folder, domain.PARITY_PROMPTS, at)
    if included:
        grown = comparison is not None and comparison.extends and vocabulary.included
        same_rows = base_size if grown or vocabulary.rows != rows else rows
        raise_rejection(
            domain.assess_base_copies(differing_copies(inputs, included, tied, min(same_rows, vocabulary.rows)))
        )
        reject_differing_copies(inputs, included, tied)
    if inputs.job.kind == "lora":
        raise_rejection(domain.assess_adapter_values(peft_model.read_adapter_values(inputs.adapter)))
    else:
        non_finite, digests = read_full_weights(inputs, ignored)
        raise_rejection(domain.assess_finite(non_finite))
        raise_rejection(domain.assess_tied_copies(inputs.checkpoint_metadata.tensors, digests, tied))
    shapes = {
        name: domain.resized(info.shape, vocabulary)
        for name, info in inputs.base_metadata.tensors.items()
        if domain.is_vocabulary(info, rows) and vocabulary.rows != rows and inputs.job.kind == "lora"
    }
    replacements = Replacements(inputs.adapter, with_tied(included, tied))
    end_id = comparison.end_id if comparison is not None else None
    return CheckResult(
        vocabulary, tokenizer, replacements, ignored, shapes, tied, token_ids, at, rendering, prompts, end_id
    )


def tokenizer_folder(inputs: MergeInputs, source: domain.TokenizerSource) -> Path:
    """Return a folder with the merged model's tokenizer."""
    if source in {"base", "checkpoint"}:
        return inputs.checkpoint if source == "checkpoint" else inputs.base
    folder = inputs.job.scratch_dir / "tokenizer"
    folder.mkdir(exist_ok=True)
    for origin in (inputs.base, inputs.checkpoint):
        for path in origin.iterdir():
            if domain.is_copied(path.name) and domain.takes_from_checkpoint(path.name, source) == (
                origin != inputs.base
            ):
                shutil.copyfile(path, folder / path.name)
    return folder


@contextmanager
def library_errors_as(code: Code, what: str) -> Iterator[None]:
    """Convert library errors about a checkpoint's files into a rejection.

    Use it around library calls only, so that defects of the merger do not become rejections.

    Raises:
        Permanent: With this code; the reason begins with `what`.
    """
    try:
        yield
    except BaseException as error:
        is_panic = type(error).__name__ == "PanicException"  # a Rust panic, which does not derive from Exception
        if not (isinstance(error, Exception) or is_panic):
            raise
        if is_out_of_memory(error) or translate(error) is not None:  # not the checkpoint's fault
            raise
        raise Permanent(code, f"{what}: {type(error).__name__}: {first_line(error)}.") from error


def build_base(folder: Path) -> tuple[Any, int, list[str]]:
    """Return the base without weights, its embedding's rows, and the modules that share one matrix.

    Raises:
        Permanent: `unsupported_architecture`.
    """
    with library_errors_as("unsupported_architecture", "The base cannot be built"):
        model = peft_model.empty_base(folder)
        return model, model.config.get_text_config().vocab_size, peft_model.tied_modules(model)


def find_ignored(inputs: MergeInputs, model: Any, expected: domain.ExpectedTensors) -> set[str]:
    """Return the tensors of the base, and of full weights, that transformers skips on loading."""
    names = {*inputs.base_metadata.tensors}
    if inputs.job.kind == "full":
        names |= {*inputs.checkpoint_metadata.tensors}
    return peft_model.ignored_tensors(model, names - expected.shapes.keys())


def check_full(
    inputs: MergeInputs, base_rows: int, expected: domain.ExpectedTensors, ignored: set[str]
) -> tuple[domain.Vocabulary, dict[str, Any]]:
    """Check full weights and their settings against the base; the embedding may be resized.

    Returns:
        The vocabulary, and the special tokens that the configuration changes.

    Raises:
        Permanent: The weights do not fit, or no model can be built from their settings.
    """
    optional = ignored | expected.aliases  # a second copy of a tied matrix may be present on either side
    base = domain.without(inputs.base_metadata.tensors, optional)
    tensors = domain.without(inputs.checkpoint_metadata.tensors, optional)
    base_config = peft_model.read_config(inputs.base)
    with library_errors_as("base_mismatch", CONFIG_UNUSABLE):
        config = peft_model.read_config(inputs.checkpoint)
    raise_rejection(domain.assess_full_config(peft_model.all_settings(config), peft_model.all_settings(base_config)))
    if domain.GENERATION_CONFIG in inputs.checkpoint_folder.sizes:
        generation = inputs.checkpoint / domain.GENERATION_CONFIG
        if read_config(generation) is None:
            reason = f"The checkpoint's {generation.name} is not a JSON object."
            raise Permanent("truncated_weights", reason)
    vocabulary = domain.plan_vocabulary(tensors, base, base_rows)
    shapes = {name: domain.resized(info.shape, vocabulary) for name, info in base.items()}
    raise_rejection(domain.assess_full_tensors(tensors, base, shapes))
    raise_rejection(domain.assess_floating(tensors, expected))
    text, base_text = config.get_text_config(), base_config.get_text_config()
    raise_rejection(domain.assess_declared_rows(text.vocab_size, vocabulary))
    with library_errors_as("base_mismatch", CONFIG_UNUSABLE):
        peft_model.empty_base(inputs.checkpoint)
    text_ids = domain.changed_token_ids(text.to_dict(), base_text.to_dict())
    return vocabulary, {**text_ids, **domain.changed_token_ids(config.to_dict(), base_config.to_dict())}


def read_full_weights(inputs: MergeInputs, ignored: set[str]) -> tuple[list[str], Digests]:
    """Read and verify all full weights; return the tensors with NaN or infinity, and all digests."""
    names: dict[str, None] = {}
    digests = Digests()
    for file in inputs.checkpoint_metadata.weights:
        for part in stream_tensors(inputs.checkpoint_folder, file, digests, lambda _name: False):
            if part.name not in ignored and part.tensor.is_floating_point() and not is_finite(part.tensor):
                names[part.name] = None
    return list(names), digests


def check_lora(inputs: MergeInputs, base_rows: int, tied: list[str]) -> tuple[domain.Vocabulary, dict[str, str]]:
    """Check a LoRA's tensors against those that PEFT expects.

    Returns:
        The vocabulary, and included base tensors: base names to names in the LoRA's file.

    Raises:
        Permanent: The tensors do not fit, or PEFT cannot apply the configuration.
    """
    tensors, base = inputs.checkpoint_metadata.tensors, dict(inputs.base_metadata.tensors)
    for alias in tied[1:]:
        base.setdefault(f"{alias}.weight", base[f"{tied[0]}.weight"])
    vocabulary = domain.plan_vocabulary(
        {domain.base_tensor_name(name): info for name, info in tensors.items()}, base, base_rows
    )
    with library_errors_as("truncated_weights", f"{domain.ADAPTER_WEIGHTS} cannot be read"):
        safe_open(str(inputs.adapter), framework="pt")
    with library_errors_as("adapter_keys_mismatch", "PEFT cannot apply this configuration to the base"):
        expected = peft_model.expected_adapter(inputs.base, inputs.checkpoint, vocabulary.rows)
    raise_rejection(domain.assess_tied(expected.modules, tied))
    names = {name: domain.base_tensor_name(name) for name in tensors.keys() - expected.shapes.keys()}
    included = {original: name for name, original in names.items() if original in base}
    own = {
        name: info
        for name, info in tensors.items()
        if name not in included.values() and (domain.duplicate_of(name) or "") not in expected.shapes
    }
    raise_rejection(domain.assess_adapter_tensors(own, expected.shapes))
    shapes = {name: domain.resized(base[original].shape, vocabulary) for original, name in included.items()}
    raise_rejection(domain.first_shape_mismatch(tensors, shapes))
    if vocabulary.rows != base_rows:
        saved = {domain.base_tensor_name(name) for name in tensors}
        raise_rejection(domain.assess_resized(saved, inputs.base_metadata.tensors, tied, vocabulary))
    return vocabulary, included


def with_tied(included: Mapping[str, str], tied: list[str]) -> dict[str, str]:
    """Add the other names of tied matrices to the included tensors."""
    names = dict(included)
    shared = [f"{name}.weight" for name in tied]
    matrix = next((names[name] for name in shared if name in names), None)
    if matrix is not None:
        names = {**dict.fromkeys(shared, matrix), **names}
    return names


def differing_copies(inputs: MergeInputs, included: Mapping[str, str], tied: list[str], rows: int) -> list[str]:
    """Return the included base tensors with changed values in their first `rows` rows."""
    names = []
    for original, name in sorted(included.items()):
        is_alias = original not in inputs.base_metadata.tensors
        if not same_rows(inputs, f"{tied[0]}.weight" if is_alias else original, name, rows):
            names.append(original)
    return names


def same_rows(inputs: MergeInputs, original: str, name: str, rows: int) -> bool:
    """Return whether a base tensor's first rows equal the LoRA's copy, reading a few rows at a time.

    The base is rounded to the copy's precision, that of training.
    """
    file, start, info = inputs.base_metadata.locate(original)
    count = info.shape[0] if len(info.shape) < 2 else min(rows, info.shape[0])
    width = info.size_bytes // max(1, info.shape[0])
    step = max(1, RUN_BYTES // max(1, width))
    with safe_open(str(inputs.adapter), framework="pt") as adapter:
        copy = adapter.get_slice(name)
        for row in range(0, count, step):
            size = min(step, count - row)
            data = inputs.base_folder.read(file, start + row * width, size * width)
            part = tensor_of(data, domain.TensorInfo(info.dtype, (size, *info.shape[1:]), size * width))
            rows_of_copy = copy[row : row + size]
            if not torch.equal(rows_of_copy, part.to(rows_of_copy.dtype)):
                return False
    return True


def reject_differing_copies(inputs: MergeInputs, included: Mapping[str, str], tied: list[str]) -> None:
    """Reject two different copies of a matrix that the base ties.

    Raises:
        Permanent: `tied_embedding_lora`.
    """
    copies = [included[f"{name}.weight"] for name in tied if f"{name}.weight" in included]
    with safe_open(str(inputs.adapter), framework="pt") as adapter:
        if len(copies) > 1 and not torch.equal(adapter.get_tensor(copies[0]), adapter.get_tensor(copies[1])):
            raise_rejection(domain.assess_tied(tied, tied))


def compare_tokenizers(inputs: MergeInputs) -> tuple[int, domain.TokenizerComparison | None]:
    """Compare the checkpoint's tokenizer with the base's (see `tokenizers.compare_tokenizers`).

    Raises:
        Permanent: `tokenizer_changed` if one cannot be loaded.
    """
    with library_errors_as("tokenizer_changed", "The tokenizer cannot be loaded"):
        return tokenizers.compare_tokenizers(inputs.base, inputs.checkpoint)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 300 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:300]
