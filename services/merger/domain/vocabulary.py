"""Which tokenizer and chat template a merged model gets, and whether its vocabulary fits the embedding."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from decisions.checkpoints.rejection import Rejection
from services.merger.domain.checks import TensorInfo

TokenizerSource = Literal["base", "checkpoint", "template", "tokenizer"]
"""Where tokenizer files come from: one folder, or the chat template from the checkpoint and the rest from the base, or
the tokenizer from the checkpoint and the chat template from the base."""
CHAT_TEMPLATE = "chat template"
ANSWER_END = "end of text token"
OWN_PROPERTIES = frozenset({CHAT_TEMPLATE, ANSWER_END})
"""What a checkpoint may change of its base's tokenizer: none of it changes the ids of a text."""


@dataclass(frozen=True)
class TokenizerComparison:
    """A checkpoint's own tokenizer compared with its base's; sizes count ids from 0 to the highest.

    Attributes:
        differences: Names of the properties that differ from the base's; empty if there are none.
        extends: It has all tokens of the base with the same ids, and additional ones.
        only_template: The checkpoint has a chat template, but no tokenizer.
        has_template: The checkpoint has a chat template.
        end_id: Id of the token that ends an answer, if it is another one than the base's.
    """

    size: int
    base_size: int
    differences: tuple[str, ...]
    extends: bool
    only_template: bool = False
    has_template: bool = True
    end_id: int | None = None


@dataclass(frozen=True)
class Vocabulary:
    """The embedding of a merged model.

    Attributes:
        rows: Rows of its matrix.
        base_rows: Rows of the base's.
        included: The checkpoint includes the complete embedding.
    """

    rows: int
    base_rows: int
    included: bool


def choose_tokenizer(tokenizer: TokenizerComparison | None, vocabulary: Vocabulary) -> TokenizerSource:
    """Return where the merged model's tokenizer comes from.

    The checkpoint's is taken if it adds tokens that have embeddings, or if only the chat template or the token that
    ends an answer differ: the model was trained with them, so they belong to the version. Without a chat template of
    its own, the base's stays.
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
    """Reject a tokenizer with ids beyond the rows of the embedding, and one that is not the base's plus added tokens.

    Args:
        tokenizer: The checkpoint's own; None if it has none.
        base_size: Ids of the base's tokenizer.
        vocabulary: The embedding of the merged model.
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
    """Reject a tokenizer with differences from the base's; `differences` names the differing parts."""
    if not differences:
        return None
    reason = (
        f"The checkpoint's {', '.join(differences)} {'differ' if len(differences) > 1 else 'differs'} from the base's."
    )
    return Rejection("tokenizer_changed", reason, {"differences": list(differences)})


def plan_vocabulary(included: Mapping[str, TensorInfo], base: Mapping[str, TensorInfo], base_rows: int) -> Vocabulary:
    """Return the embedding that the merged model will have.

    Args:
        included: Complete tensors of the checkpoint, by their names in the base.
        base: The base's tensors.
        base_rows: `vocab_size` of the base's configuration.
    """
    rows = [info.shape[0] for name, info in included.items() if info.shape and is_vocabulary(base.get(name), base_rows)]
    changed = [count for count in rows if count != base_rows]
    return Vocabulary((changed or [base_rows])[0], base_rows, bool(rows))


def is_vocabulary(info: TensorInfo | None, rows: int) -> bool:
    """Return whether a tensor of the base is its embedding or its head: a matrix with one row per token."""
    return info is not None and len(info.shape) == 2 and info.shape[0] == rows


def resized(shape: tuple[int, ...], vocabulary: Vocabulary) -> tuple[int, ...]:
    """Return the shape that a tensor of the base has in the merged model."""
    if len(shape) == 2 and shape[0] == vocabulary.base_rows:
        return (vocabulary.rows, *shape[1:])
    return shape


def assess_declared_rows(declared: int, vocabulary: Vocabulary) -> Rejection | None:
    """Reject full weights whose configuration declares another vocabulary than their embedding has."""
    if declared == vocabulary.rows:
        return None
    reason = f"config.json says vocab_size = {declared}, the embedding has {vocabulary.rows} rows."
    return Rejection("vocabulary_mismatch", reason, {"declared": declared, "rows": vocabulary.rows})


def assess_resized(
    included: Collection[str], base: Mapping[str, TensorInfo], tied: Sequence[str], vocabulary: Vocabulary
) -> Rejection | None:
    """Reject a LoRA that includes only one of embedding and head in the new size, unless the base ties them.

    Args:
        included: Its complete tensors, by their names in the base.
        base: The base's tensors.
        tied: Names of the modules that share one matrix in this base.
        vocabulary: The embedding of the merged model.
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
