"""Chooses the merged model's tokenizer and chat template, and checks that its vocabulary fits the embedding."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from decisions.checkpoints.rejection import Rejection
from services.merger.domain.checks import TensorInfo

TokenizerSource = Literal["base", "checkpoint", "template", "tokenizer"]
"""Source of the tokenizer files.

`template`: chat template from the checkpoint, all else from the base. `tokenizer`: the reverse.
"""
CHAT_TEMPLATE = "chat template"
ANSWER_END = "end of text token"
OWN_PROPERTIES = frozenset({CHAT_TEMPLATE, ANSWER_END})
"""Properties that a checkpoint may change, because they leave token IDs of texts unchanged."""


@dataclass(frozen=True)
class TokenizerComparison:
    """Comparison of a checkpoint's tokenizer with its base's; sizes count IDs from 0 to the highest.

    Attributes:
        differences: Properties that differ.
        extends: Whether it adds tokens to the base's, with unchanged IDs.
        only_template: Whether the checkpoint has a chat template but no tokenizer.
        has_template: Whether the checkpoint has a chat template.
        end_id: ID of its end-of-text token, if it differs from the base's.
    """

    size: int
    differences: tuple[str, ...]
    extends: bool
    only_template: bool = False
    has_template: bool = True
    end_id: int | None = None


@dataclass(frozen=True)
class Vocabulary:
    """The merged model's embedding.

    Attributes:
        rows: Rows of its matrix.
        base_rows: Rows of the base's matrix.
        included: Whether the checkpoint includes the complete embedding.
    """

    rows: int
    base_rows: int
    included: bool


def choose_tokenizer(tokenizer: TokenizerComparison | None, vocabulary: Vocabulary) -> TokenizerSource:
    """Return the source of the merged model's tokenizer.

    The checkpoint's is used if it adds tokens with embeddings, or if only chat template or end-of-text token differ,
    because the model was trained with them. A chat template missing there comes from the base.
    """
    if tokenizer is None or not tokenizer.differences:
        return "base"
    if tokenizer.only_template:
        return "template"
    own = (tokenizer.extends and vocabulary.included) or OWN_PROPERTIES.issuperset(tokenizer.differences)
    if not own:
        return "base"
    return "checkpoint" if tokenizer.has_template else "tokenizer"


def assess_vocabulary(
    tokenizer: TokenizerComparison | None, base_size: int, vocabulary: Vocabulary
) -> Rejection | None:
    """Reject a tokenizer with IDs beyond the embedding, or with changes other than added tokens.

    Args:
        tokenizer: Comparison of the checkpoint's tokenizer; None without one.
        base_size: IDs of the base's tokenizer.
        vocabulary: The merged model's embedding.
    """
    size = base_size if tokenizer is None else tokenizer.size
    details = {"tokens": size, "rows": vocabulary.rows, "base_rows": vocabulary.base_rows}
    if size > vocabulary.rows:
        reason = f"The tokenizer has {size} tokens, the embedding has {vocabulary.rows} rows."
        return Rejection("vocabulary_mismatch", reason, details)
    if tokenizer is None and vocabulary.rows > vocabulary.base_rows:
        reason = (
            f"The embedding grew from {vocabulary.base_rows} to {vocabulary.rows} rows, but the checkpoint has no "
            "tokenizer."
        )
        return Rejection("vocabulary_mismatch", reason, details)
    if tokenizer is None or choose_tokenizer(tokenizer, vocabulary) != "base":
        return None
    return assess_tokenizer(tokenizer.differences)


def assess_tokenizer(differences: Sequence[str]) -> Rejection | None:
    """Reject a tokenizer that differs from the base's in these properties."""
    if not differences:
        return None
    reason = (
        f"The checkpoint's {', '.join(differences)} {'differ' if len(differences) > 1 else 'differs'} from the base's."
    )
    return Rejection("tokenizer_changed", reason, {"differences": list(differences)})


def plan_vocabulary(included: Mapping[str, TensorInfo], base: Mapping[str, TensorInfo], base_rows: int) -> Vocabulary:
    """Return the merged model's embedding.

    Args:
        included: Complete tensors of the checkpoint, by base name.
        base: The base's tensors.
        base_rows: `vocab_size` of the base's configuration.
    """
    rows = [info.shape[0] for name, info in included.items() if info.shape and is_vocabulary(base.get(name), base_rows)]
    changed = [count for count in rows if count != base_rows]
    return Vocabulary((changed or [base_rows])[0], base_rows, bool(rows))


def is_vocabulary(info: TensorInfo | None, rows: int) -> bool:
    """Return whether a base tensor is the embedding or head: a matrix with one row per token."""
    return info is not None and len(info.shape) == 2 and info.shape[0] == rows


def resized(shape: tuple[int, ...], vocabulary: Vocabulary) -> tuple[int, ...]:
    """Return a base tensor's shape in the merged model."""
    if len(shape) == 2 and shape[0] == vocabulary.base_rows:
        return (vocabulary.rows, *shape[1:])
    return shape


def assess_declared_rows(declared: int, vocabulary: Vocabulary) -> Rejection | None:
    """Reject full weights whose `vocab_size` differs from their embedding."""
    if declared == vocabulary.rows:
        return None
    reason = f"config.json says vocab_size = {declared}, the embedding has {vocabulary.rows} rows."
    return Rejection("vocabulary_mismatch", reason, {"declared": declared, "rows": vocabulary.rows})


def assess_resized(
    included: Collection[str], base: Mapping[str, TensorInfo], tied: Sequence[str], vocabulary: Vocabulary
) -> Rejection | None:
    """Reject a LoRA that includes only one of embedding and head in a new size, unless the base ties them.

    Args:
        included: Its complete tensors, by base name.
        base: The base's tensors.
        tied: Modules of the base that share one matrix.
        vocabulary: The merged model's embedding.
    """
    shared = {f"{name}.weight" for name in tied}
    available = {*included, *(shared if shared & set(included) else ())}
    missing = [
        name for name, info in base.items() if is_vocabulary(info, vocabulary.base_rows) and name not in available
    ]
    if not missing:
        return None
    reason = (
        f"The embedding was resized from {vocabulary.base_rows} to {vocabulary.rows} rows, but {missing[0]} is missing."
    )
    return Rejection("vocabulary_mismatch", reason, {"missing": missing})
