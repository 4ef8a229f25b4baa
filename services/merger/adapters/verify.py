"""Reads the merged model back from the store, and holds it against what it was made of."""

from collections.abc import Callable
from dataclasses import dataclass

from contracts.facts import Parity
from services.merger import domain
from services.merger.adapters import parity, peft_model, tokenizers
from services.merger.adapters.inputs import Rooms
from services.merger.adapters.layerwise import Load
from services.merger.adapters.remote_folder import Shelf
from services.merger.adapters.safetensors_header import read_folder
from services.merger.adapters.tensors import TensorReader
from services.merger.adapters.torch_checks import Checked
from services.merger.adapters.torch_merge import Written
from services.merger.ports import Folder, Rendering
from shared.storage.blobs import Store


@dataclass(frozen=True)
class Seen:
    """What the stored model is like."""

    parity: Parity
    rendering: Rendering


def prove(store: Store, rooms: Rooms, checked: Checked, written: Written, progress: Callable[[int, int], None]) -> Seen:
    """Compare the stored model with what it was made of; every byte of it is read again.

    Raises:
        ArithmeticError: some tensor came back with other bytes, or gives logits that are not finite.
    """
    shelf = Shelf(store, Folder("", written.files, ""))
    stored = shelf.fetch([path for path in shelf.sizes if domain.is_carried_over(path)], rooms.order.room / "stored")
    facts = read_folder(shelf, stored / domain.MODEL_CONFIG)
    merged = TensorReader(shelf, facts, written.written)
    is_lora = rooms.order.kind == "lora"
    rows = checked.vocabulary.rows
    if is_lora:
        reference = TensorReader(rooms.base_shelf, rooms.base_facts, written.read, checked.replacements)
    else:
        reference = TensorReader(rooms.checkpoint_shelf, rooms.checkpoint_facts, written.read)
    measured = parity.measure_parity(
        lambda: (
            peft_model.load_unmerged(rooms.base, rooms.checkpoint, rows)
            if is_lora
            else peft_model.empty_base(rooms.checkpoint)
        ),
        through_ties(reference, checked.tied),
        lambda: peft_model.empty_base(stored),
        through_ties(merged, checked.tied),
        prompts=checked.prompts,
        with_effect=is_lora and rows == checked.vocabulary.base_rows,
        progress=progress,
    )
    for name in sorted(merged.unread):
        merged.load(name)  # what the model never asked for is verified, too
    with tokenizers.limited():
        return Seen(measured, tokenizers.render(stored, checked.at))


def through_ties(reader: TensorReader, tied: list[str]) -> Load:
    """Read the embedding wherever one of the modules that share its matrix asks."""
    shared = {f"{name}.weight": f"{tied[0]}.weight" for name in tied}
    return lambda name: reader.load(shared.get(name, name))
