"""Added tokens: whose tokenizer a merged model takes, and whether its vocabulary fits the embedding."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from services.merger.domain.checks import Refusal, TensorInfo


@dataclass(frozen=True)
class TokenizerFacts:
    """A checkpoint's own tokenizer beside its base's; sizes count ids from 0 to the highest.

    Attributes:
        differences: In what it differs from the base's, in words; empty when it means the same.
        extends: It has all tokens of the base under the same ids, and some more.
    """

    size: int
    base_size: int
    differences: tuple[str, ...]
    extends: bool


@dataclass(frozen=True)
class Vocabulary:
    """The embedding of a merged model.

    Attributes:
        rows: Rows of its matrix.
        base_rows: Rows of the base's.
        carried: The checkpoint brings the embedding along, whole.
    """

    rows: int
    base_rows: int
    carried: bool


def takes_own_tokenizer(tokenizer: TokenizerFacts | None, vocabulary: Vocabulary) -> bool:
    """Return whether the merged model takes the checkpoint's tokenizer: it adds tokens that have embeddings."""
    return tokenizer is not None and tokenizer.extends and vocabulary.carried


def assess_vocabulary(tokenizer: TokenizerFacts | None, base_size: int, vocabulary: Vocabulary) -> Refusal | None:
    """Refuse a tokenizer with ids that the embedding has no row for, and one that is not the base's plus some tokens.

    Args:
        tokenizer: The checkpoint's own; None when it brings none.
        base_size: Ids of the base's tokenizer.
        vocabulary: The embedding of the merged model.
    """
    size = base_size if tokenizer is None else tokenizer.size
    details = {"tokens": size, "rows": vocabulary.rows, "base_rows": vocabulary.base_rows}
    if size > vocabulary.rows:
        reason = f"The tokenizer has {size} tokens, the embedding {vocabulary.rows} rows."
        return Refusal("vocabulary_mismatch", reason, details)
    if tokenizer is None and vocabulary.rows > vocabulary.base_rows:
        reason = f"The embedding grew from {vocabulary.base_rows} to {vocabulary.rows} rows, without a tokenizer."
        return Refusal("vocabulary_mismatch", reason, details)
    if tokenizer is None or not tokenizer.differences or takes_own_tokenizer(tokenizer, vocabulary):
        return None
    return assess_tokenizer(tokenizer.differences)


def assess_tokenizer(differences: Sequence[str]) -> Refusal | None:
    """Refuse another tokenizer than the one expected; `differences` names what differs."""
    if not differences:
        return None
    reason = f"The checkpoint's {', '.join(differences)} differ from the base's."
    return Refusal("tokenizer_changed", reason, {"differences": list(differences)})


def plan_vocabulary(carried: Mapping[str, TensorInfo], base: Mapping[str, TensorInfo], base_rows: int) -> Vocabulary:
    """Find out how many rows the embedding will have.

    Args:
        carried: What the checkpoint brings along whole, by the names of the base.
        base: The base's tensors.
        base_rows: `vocab_size` of the base's configuration.
    """
    rows = [info.shape[0] for name, info in carried.items() if info.shape and is_vocabulary(base.get(name), base_rows)]
    resized = [count for count in rows if count != base_rows]
    return Vocabulary((resized or [base_rows])[0], base_rows, bool(rows))


def is_vocabulary(info: TensorInfo | None, rows: int) -> bool:
    """Return whether a tensor of the base is its embedding or its head: a matrix with a row for each token."""
    return info is not None and len(info.shape) == 2 and info.shape[0] == rows


def resized(shape: tuple[int, ...], vocabulary: Vocabulary) -> tuple[int, ...]:
    """Return the shape that a tensor of the base has in the merged model."""
    if len(shape) == 2 and shape[0] == vocabulary.base_rows:
        return (vocabulary.rows, *shape[1:])
    return shape


def assess_declared_rows(declared: int, vocabulary: Vocabulary) -> Refusal | None:
    """Refuse full weights whose configuration speaks of another vocabulary than their embedding has."""
    if declared == vocabulary.rows:
        return None
    reason = f"config.json says vocab_size = {declared}, the embedding has {vocabulary.rows} rows."
    return Refusal("vocabulary_mismatch", reason, {"declared": declared, "rows": vocabulary.rows})


def assess_resized(
    brought: Collection[str], base: Mapping[str, TensorInfo], tied: Sequence[str], vocabulary: Vocabulary
) -> Refusal | None:
    """Refuse a LoRA that brings only one of embedding and head in the new size, unless the base ties them.

    Args:
        brought: What it brings along whole, by the names of the base.
        base: The base's tensors.
        tied: Names of the modules that share one matrix in this base.
        vocabulary: The embedding of the merged model.
    """
    mates = {f"{name}.weight" for name in tied}
    have = {*brought, *(mates if mates & set(brought) else ())}
    missing = [name for name, info in base.items() if is_vocabulary(info, vocabulary.base_rows) and name not in have]
    if not missing:
        return None
    reason = f"The vocabulary has {vocabulary.rows} rows, not {vocabulary.base_rows}, but {missing[0]} is missing."
    return Refusal("vocabulary_mismatch", reason, {"missing": missing})
