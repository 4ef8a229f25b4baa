"""The heavy step itself: every tensor, merged by PEFT's own code, into shards."""

from collections.abc import Callable

from services.merger import domain
from services.merger.adapters.peft_model import LayerwiseMerge
from services.merger.adapters.streaming import LeftOverError, NoMerge, TensorMerge, carry_over, write_merged
from services.merger.ports import MergeOrder
from shared.errors import Permanent


def write(order: MergeOrder, source: domain.FolderFacts, tell: Callable[[int, int], None]) -> None:
    """Write the merged model to `order.out`.

    Raises:
        Permanent: `non_finite_weights`, `unsupported_adapter`.
    """
    is_lora = order.kind == "lora"
    folder = order.base if is_lora else order.checkpoint
    merge: TensorMerge = LayerwiseMerge(order.base, order.checkpoint) if is_lora else NoMerge()
    try:
        write_merged(folder, source, order.out, merge=merge, dtype=order.dtype, progress=tell)
    except LeftOverError as error:
        raise Permanent("unsupported_adapter", f"{error}.") from error
    except ValueError as error:
        raise Permanent("non_finite_weights", f"After merging, {error}.") from error
    carry_over(order.base, order.out, dtype=order.dtype)
