"""The checks that need torch: what PEFT expects of a LoRA on this base, its values, its tokenizer."""

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
from services.merger.adapters.inputs import Rooms, refuse
from services.merger.adapters.safetensors_header import read_config
from services.merger.adapters.tensors import RUN_BYTES, Replacements, is_finite, stream_tensors, tensor_of
from services.merger.ports import Rendering
from shared.errors import Permanent, translate
from shared.runtime.clock import SystemClock
from shared.runtime.jobs import is_out_of_memory

CONFIG_UNUSABLE = "The checkpoint's config.json cannot be used"


@dataclass(frozen=True)
class Checked:
    """What the checks found out that the merge needs.

    Attributes:
        ignored: Tensors of the files that no model is made of, so that the merged one does not get them.
        shapes: Shapes in the merged model of the tensors that get another one.
        tied: Modules that share one matrix, the embedding first.
        token_ids: Special tokens that the configuration of full weights changes.
        at: The instant that chat templates are told.
        rendering: What the tokenizer that goes in makes of the probe conversation.
        prompts: Token ids of the prompts of parity.
    """

    vocabulary: domain.Vocabulary
    own_tokenizer: bool
    replacements: Replacements
    ignored: set[str]
    shapes: Mapping[str, tuple[int, ...]]
    tied: list[str]
    token_ids: Mapping[str, Any]
    at: datetime
    rendering: Rendering
    prompts: list[torch.Tensor]


def check(rooms: Rooms) -> Checked:
    """Hold a checkpoint against its base, tensor by tensor; raise Permanent where it does not fit."""
    model, rows, tied = build_base(rooms.base)
    known = peft_model.known_weights(model)
    ignored = find_ignored(rooms, model, known)
    refuse(domain.assess_base_tensors(domain.without(rooms.base_facts.tensors, ignored), known))
    brought: dict[str, str] = {}
    token_ids: dict[str, Any] = {}
    if rooms.order.kind == "full":
        vocabulary, token_ids = check_full(rooms, rows, known, ignored)
    else:
        vocabulary, brought = check_lora(rooms, rows, tied)
    with tokenizers.limited():
        base_size, tokenizer = compare_tokenizers(rooms)
    refuse(domain.assess_vocabulary(tokenizer, base_size, vocabulary))
    own = domain.takes_own_tokenizer(tokenizer, vocabulary)
    source, at = rooms.checkpoint if own else rooms.base, SystemClock().now()
    with tokenizers.limited():
        rendering, prompts = tokenizers.render(source, at), tokenizers.encode_prompts(source, domain.PARITY_PROMPTS, at)
    if brought:
        same_rows = base_size if own or vocabulary.rows != rows else rows
        refuse(domain.assess_base_copies(differing_copies(rooms, brought, tied, min(same_rows, vocabulary.rows))))
        assess_twins(rooms, brought, tied)
    if rooms.order.kind == "lora":
        refuse(domain.assess_adapter_values(peft_model.read_values(rooms.adapter)))
    else:
        refuse(domain.assess_finite(non_finite_weights(rooms, ignored)))
    shapes = {
        name: domain.resized(info.shape, vocabulary)
        for name, info in rooms.base_facts.tensors.items()
        if domain.is_vocabulary(info, rows) and vocabulary.rows != rows and rooms.order.kind == "lora"
    }
    replacements = Replacements(rooms.adapter, whole(brought, tied))
    return Checked(vocabulary, own, replacements, ignored, shapes, tied, token_ids, at, rendering, prompts)


@contextmanager
def judged_by_a_library(code: Code, what: str) -> Iterator[None]:
    """Turn whatever a library raises about a checkpoint's files into a refusal that names its kind.

    Only around a library's own look at them: it raises what it likes, and a defect of ours must not look like this.

    Raises:
        Permanent: with this code; `what` begins its sentence.
    """
    try:
        yield
    except BaseException as error:
        is_panic = type(error).__name__ == "PanicException"  # Rust's own, which is no Exception to Python
        if not (isinstance(error, Exception) or is_panic):
            raise
        if is_out_of_memory(error) or translate(error) is not None:  # no fault of the checkpoint's
            raise
        raise Permanent(code, f"{what}: {type(error).__name__}: {first_line(error)}.") from error


def build_base(folder: Path) -> tuple[Any, int, list[str]]:
    """Build the base, empty; give it, the rows of its embedding, and the modules that share one matrix.

    Raises:
        Permanent: `unsupported_architecture`.
    """
    with judged_by_a_library("unsupported_architecture", "The base cannot be built"):
        model = peft_model.empty_base(folder)
        return model, model.config.get_text_config().vocab_size, peft_model.tied_modules(model)


def find_ignored(rooms: Rooms, model: Any, known: domain.Known) -> set[str]:
    """Name the tensors of both folders that transformers leaves out on loading."""
    found = {*rooms.base_facts.tensors}
    if rooms.order.kind == "full":
        found |= {*rooms.checkpoint_facts.tensors}
    return peft_model.ignored_weights(model, found - known.shapes.keys())


def check_full(
    rooms: Rooms, base_rows: int, known: domain.Known, ignored: set[str]
) -> tuple[domain.Vocabulary, dict[str, Any]]:
    """Hold full weights and their settings against the base, whose embedding they may have resized.

    Returns:
        Their vocabulary, and the special tokens that their configuration changes.

    Raises:
        Permanent: they do not fit, or nothing can be built from their settings.
    """
    base = domain.without(rooms.base_facts.tensors, ignored)
    found = domain.without(rooms.checkpoint_facts.tensors, ignored)
    base_config = peft_model.read_config(rooms.base)
    with judged_by_a_library("base_mismatch", CONFIG_UNUSABLE):
        config = peft_model.read_config(rooms.checkpoint)
    refuse(domain.assess_full_config(peft_model.settings_of(config), peft_model.settings_of(base_config)))
    if domain.GENERATION_CONFIG in rooms.checkpoint_shelf.sizes:
        generation = rooms.checkpoint / domain.GENERATION_CONFIG
        if read_config(generation) is None:
            raise Permanent("truncated_weights", f"The checkpoint's {generation.name} is no JSON object.")
    vocabulary = domain.plan_vocabulary(found, base, base_rows)
    expected = {name: domain.resized(info.shape, vocabulary) for name, info in base.items()}
    refuse(domain.assess_full_tensors(found, base, expected))
    refuse(domain.assess_floating(found, known))
    text, base_text = config.get_text_config(), base_config.get_text_config()
    refuse(domain.assess_declared_rows(text.vocab_size, vocabulary))
    with judged_by_a_library("base_mismatch", CONFIG_UNUSABLE):
        peft_model.empty_base(rooms.checkpoint)
    pairs = ((text, base_text), (config, base_config))  # one and the same, unless a model has parts
    changed = [domain.changed_token_ids(one.to_dict(), other.to_dict()) for one, other in pairs]
    return vocabulary, {**changed[0], **changed[1]}


def non_finite_weights(rooms: Rooms, ignored: set[str]) -> list[str]:
    """Name the tensors of full weights that hold NaN or infinity; every byte is read and verified."""
    found: dict[str, None] = {}
    for file in rooms.checkpoint_facts.weights:
        for part in stream_tensors(rooms.checkpoint_shelf, file, {}, lambda _name: False):
            if part.name not in ignored and part.tensor.is_floating_point() and not is_finite(part.tensor):
                found[part.name] = None
    return list(found)


def check_lora(rooms: Rooms, base_rows: int, tied: list[str]) -> tuple[domain.Vocabulary, dict[str, str]]:
    """Hold a LoRA's tensors against what PEFT expects; give its vocabulary, and the embeddings that it brings along."""
    found, base = rooms.checkpoint_facts.tensors, dict(rooms.base_facts.tensors)
    for alias in tied[1:]:
        base.setdefault(f"{alias}.weight", base[f"{tied[0]}.weight"])
    vocabulary = domain.plan_vocabulary(
        {domain.base_tensor_name(name): info for name, info in found.items()}, base, base_rows
    )
    with judged_by_a_library("truncated_weights", f"{domain.ADAPTER_WEIGHTS} cannot be read"):
        safe_open(str(rooms.adapter), framework="pt")
    with judged_by_a_library("adapter_keys_mismatch", "PEFT cannot apply this configuration to the base"):
        expected = peft_model.expected_adapter(rooms.base, rooms.checkpoint, vocabulary.rows)
    refuse(domain.assess_tied(expected.modules, tied))
    names = {name: domain.base_tensor_name(name) for name in found.keys() - expected.shapes.keys()}
    brought = {original: name for name, original in names.items() if original in base}
    own = {
        name: info
        for name, info in found.items()
        if name not in brought.values() and (domain.twin_of(name) or "") not in expected.shapes
    }
    refuse(domain.assess_adapter_tensors(own, expected.shapes))
    shapes = {name: domain.resized(base[original].shape, vocabulary) for original, name in brought.items()}
    refuse(domain.first_shape_mismatch(found, shapes))
    if vocabulary.rows != base_rows:
        saved = {domain.base_tensor_name(name) for name in found}
        refuse(domain.assess_resized(saved, rooms.base_facts.tensors, tied, vocabulary))
    return vocabulary, brought


def whole(brought: Mapping[str, str], tied: list[str]) -> dict[str, str]:
    """Let one of two tied matrices that a LoRA brings along stand for both."""
    names = dict(brought)
    mates = [f"{name}.weight" for name in tied]
    for mate in mates:
        given = next((names[one] for one in mates if one in names), None)
        if given is not None:
            names.setdefault(mate, given)
    return names


def differing_copies(rooms: Rooms, brought: Mapping[str, str], tied: list[str], rows: int) -> list[str]:
    """Name the tensors of the base that a LoRA's file brings along with other values in their first `rows`."""
    found = []
    for original, name in sorted(brought.items()):
        is_alias = original not in rooms.base_facts.tensors
        if not same_rows(rooms, f"{tied[0]}.weight" if is_alias else original, name, rows):
            found.append(original)
    return found


def same_rows(rooms: Rooms, original: str, name: str, rows: int) -> bool:
    """Compare the first rows of a tensor of the base with a LoRA's copy of it, a few at a time."""
    file, start, info = rooms.base_facts.locate(original)
    count = info.shape[0] if len(info.shape) < 2 else min(rows, info.shape[0])
    width = info.size_bytes // max(1, info.shape[0])
    step = max(1, RUN_BYTES // max(1, width))
    with safe_open(str(rooms.adapter), framework="pt") as opened:
        copy = opened.get_slice(name)
        for at in range(0, count, step):
            size = min(step, count - at)
            data = rooms.base_shelf.read(file, start + at * width, size * width)
            part = tensor_of(data, domain.TensorInfo(info.dtype, (size, *info.shape[1:]), size * width))
            if not torch.equal(copy[at : at + size].float(), part.float()):
                return False
    return True


def assess_twins(rooms: Rooms, brought: Mapping[str, str], tied: list[str]) -> None:
    """Refuse two different copies of what is one matrix in this base."""
    copies = [brought[f"{name}.weight"] for name in tied if f"{name}.weight" in brought]
    with safe_open(str(rooms.adapter), framework="pt") as opened:
        if len(copies) > 1 and not torch.equal(opened.get_tensor(copies[0]), opened.get_tensor(copies[1])):
            refuse(domain.assess_tied(tied, tied))


def compare_tokenizers(rooms: Rooms) -> tuple[int, domain.TokenizerFacts | None]:
    """Hold the checkpoint's own tokenizer against the base's.

    Raises:
        Permanent: `tokenizer_changed` when one cannot be loaded.
    """
    with judged_by_a_library("tokenizer_changed", "The tokenizer cannot be loaded"):
        return tokenizers.compare_tokenizers(rooms.base, rooms.checkpoint)


def first_line(error: BaseException) -> str:
    """Shorten a library's message to what fits into one sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:300]
