"""What a merge works on: two folders in the store, and local copies of their small files."""

from dataclasses import dataclass
from pathlib import Path

from services.merger import domain
from services.merger.adapters.remote_folder import Count, Shelf
from services.merger.adapters.safetensors_header import read_adapter, read_folder
from services.merger.ports import MergeOrder
from shared.errors import Permanent
from shared.storage.blobs import Store


@dataclass(frozen=True)
class Rooms:
    """Base and checkpoint of one order: where they lie, what their headers say, and their small files."""

    order: MergeOrder
    base_shelf: Shelf
    checkpoint_shelf: Shelf
    base_facts: domain.FolderFacts
    checkpoint_facts: domain.FolderFacts
    base: Path
    checkpoint: Path

    @property
    def adapter(self) -> Path:
        """The LoRA's weights, once they were fetched."""
        return self.checkpoint / domain.ADAPTER_WEIGHTS


def refuse(refusal: domain.Refusal | None) -> None:
    """Raise the error that the parent turns into a rejection."""
    if refusal is not None:
        raise Permanent(refusal.code, refusal.reason, **refusal.details)


def open_rooms(store: Store, order: MergeOrder, count: Count) -> Rooms:
    """Read headers and configurations, refuse what can be refused by them, then fetch the other small files.

    Raises:
        Permanent: the checkpoint is refused.
    """
    base, checkpoint = Shelf(store, order.base), Shelf(store, order.checkpoint)
    refuse(domain.assess_files(order.kind, checkpoint.sizes))
    base_room, checkpoint_room = order.room / "base", order.room / "checkpoint"
    config = domain.ADAPTER_CONFIG if order.kind == "lora" else domain.MODEL_CONFIG
    refuse(domain.assess_base_files(base.sizes))
    refuse(domain.assess_small_files(checkpoint.sizes) or domain.assess_small_files(base.sizes))
    base.fetch([domain.MODEL_CONFIG], base_room)
    checkpoint.fetch([config], checkpoint_room)
    base_facts = read_folder(base, base_room / domain.MODEL_CONFIG)
    read = read_adapter if order.kind == "lora" else read_folder
    checkpoint_facts = read(checkpoint, checkpoint_room / config)
    refuse_by_headers(order, base_facts, checkpoint_facts)
    base.fetch([path for path in base.sizes if domain.is_carried_over(path)], base_room)
    small = [path for path in checkpoint.sizes if domain.is_carried_over(path)]
    weights = [domain.ADAPTER_WEIGHTS] if order.kind == "lora" else []
    checkpoint.fetch([*small, *weights], checkpoint_room, count)
    return Rooms(order, base, checkpoint, base_facts, checkpoint_facts, base_room, checkpoint_room)


def refuse_by_headers(order: MergeOrder, base: domain.FolderFacts, checkpoint: domain.FolderFacts) -> None:
    """Refuse what configurations and headers show already, without torch and without reading a weight."""
    refuse(domain.assess_weights_files(checkpoint.weights))
    refuse(domain.assess_weights_files(base.weights))
    refuse(domain.assess_distinct(checkpoint.weights))
    refuse(domain.assess_distinct(base.weights))
    refuse(domain.assess_base(base))
    if base.config is None or checkpoint.config is None:
        raise Permanent("truncated_weights", "A configuration file of the base or the checkpoint is no JSON object.")
    if order.kind == "lora":
        refuse(domain.assess_adapter_config(checkpoint.config, order.base_ref))
        refuse(domain.assess_recorded(checkpoint.config, order.hyperparameters))
        refuse(domain.assess_adapter_dtypes(checkpoint.tensors))
    else:
        refuse(domain.assess_quantised("checkpoint", checkpoint.tensors))
