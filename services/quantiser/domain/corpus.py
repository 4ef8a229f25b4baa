"""Text for calibration and held-out quality, split so that they share no passage."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from contracts.vocabulary import Contract, digest_of_json

QUESTION_AND_ANSWER = 2
MIN_PASSAGE_CHARS = 40
"""Minimum characters of an overlapping passage; shorter ones (headings, "See also") occur in any text."""

_BLANK_LINES = re.compile(r"\n\s*\n")


class CorpusSplit(Contract):
    """Two sets of documents without common passages."""

    calibration: tuple[str, ...]
    held_out: tuple[str, ...]


def split_topics(topics: Mapping[str, str], *, held_out_every: int = 3) -> CorpusSplit:
    """Split texts by the hash of their names, and remove held-out passages from calibration.

    Args:
        topics: Text by name; texts may share passages.
        held_out_every: On average, one text in this many is held out.
    """
    held_out = {name for name in topics if _hash(name) % held_out_every == 0}
    held_texts = tuple(topics[name] for name in sorted(held_out))
    others = [topics[name] for name in sorted(topics) if name not in held_out]
    return CorpusSplit(calibration=remove_overlap(others, held_texts), held_out=held_texts)


def remove_overlap(documents: Iterable[str], held_out: Iterable[str]) -> tuple[str, ...]:
    """Return the documents without held-out passages, and without documents left empty."""
    held_out_keys = {key for text in held_out for _, key in _passages(text) if key is not None}
    kept = (
        "\n\n".join(text for text, key in _passages(document) if key not in held_out_keys) for document in documents
    )
    return tuple(document for document in kept if document.strip())


def turn_keys(turns: Sequence[str]) -> Iterator[str]:
    """Yield keys that records with the same content share: whole text, each long turn, and a single question.

    A short first turn of a longer conversation ("Hi") is no key.
    """
    keys = [" ".join(turn.split()) for turn in turns]
    if keys:
        yield " ".join(keys)
    for index, key in enumerate(keys):
        if len(key) >= MIN_PASSAGE_CHARS or (index == 0 and len(keys) <= QUESTION_AND_ANSWER):
            yield key


def corpus_digest(documents: Sequence[str]) -> str:
    """Return the digest of documents in order."""
    return digest_of_json(list(documents))


def pack_windows(
    documents: Iterable[Sequence[int]], *, length: int, samples: int, seed: int, separator: int | None = None
) -> list[list[int]]:
    """Join token lists, cut them into windows, and select windows by the seed.

    A shorter last window is used only if there are too few, so that small sets are used completely.

    Returns:
        At most `samples` windows of at most `length` tokens, in an order that depends only on the seed.
    """
    stream: list[int] = []
    for tokens in documents:
        stream.extend(tokens)
        if separator is not None:
            stream.append(separator)
    windows = [stream[start : start + length] for start in range(0, len(stream), length)]
    if len(windows) > samples and len(windows[-1]) < length:
        windows.pop()
    job = sorted(range(len(windows)), key=lambda index: _hash(f"{seed}:{index}"))
    return [windows[index] for index in job[:samples]]


def spread_windows(tokens: Sequence[int], *, length: int, count: int, with_rest: bool = False) -> list[list[int]]:
    """Return `count` windows, spread evenly over a token stream; fewer if the stream is short.

    Args:
        tokens: The stream.
        length: Tokens per window.
        count: Maximum number of windows.
        with_rest: Whether too few windows are completed by a shorter one.
    """
    whole = [list(tokens[start : start + length]) for start in range(0, len(tokens) - length + 1, length)]
    if len(whole) < count:
        rest = list(tokens[len(whole) * length :])
        return [*whole, rest] if with_rest and len(rest) > 1 else whole
    return [whole[index * len(whole) // count] for index in range(count)]


def _passages(text: str) -> list[tuple[str, str | None]]:
    """Split a text at blank lines into (passage, key); the key is None for short passages."""
    passages: list[tuple[str, str | None]] = []
    for passage in _BLANK_LINES.split(text):
        key = " ".join(passage.split())
        passages.append((passage, key if len(key) >= MIN_PASSAGE_CHARS else None))
    return passages


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
