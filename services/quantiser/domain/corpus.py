"""Text for calibration and for held-out quality: split so that the two never share a passage."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from contracts.vocabulary import Contract, digest_of_json

QUESTION_AND_ANSWER = 2
MIN_PASSAGE_CHARS = 40
"""Shorter passages (headings, "See also") occur in any text and prove no overlap."""

_BLANK_LINES = re.compile(r"\n\s*\n")


class CorpusSplit(Contract):
    """Two sets of documents without a common passage."""

    calibration: tuple[str, ...]
    held_out: tuple[str, ...]


def split_topics(topics: Mapping[str, str], *, held_out_every: int = 3) -> CorpusSplit:
    """Split named texts by the hash of their name, then take from calibration what also occurs in the held-out part.

    Args:
        topics: Text by name. The same passage may occur in several texts.
        held_out_every: One topic in so many, on average, is held out.
    """
    held_out = {name for name in topics if _hash(name) % held_out_every == 0}
    held_texts = tuple(topics[name] for name in sorted(held_out))
    others = [topics[name] for name in sorted(topics) if name not in held_out]
    return CorpusSplit(calibration=without_overlap(others, held_texts), held_out=held_texts)


def without_overlap(documents: Iterable[str], held_out: Iterable[str]) -> tuple[str, ...]:
    """Drop from documents every passage that the held-out texts hold too; empty documents fall away."""
    known = {key for text in held_out for _, key in _passages(text) if key is not None}
    kept = ("\n\n".join(text for text, key in _passages(document) if key not in known) for document in documents)
    return tuple(document for document in kept if document.strip())


def turn_keys(turns: Sequence[str]) -> Iterator[str]:
    """Return what tells whether two records say the same: all that is said, each long turn, and a single question.

    A short opening of a longer conversation ("Hi") proves nothing.
    """
    keys = [" ".join(turn.split()) for turn in turns]
    if keys:
        yield " ".join(keys)
    for index, key in enumerate(keys):
        if len(key) >= MIN_PASSAGE_CHARS or (index == 0 and len(keys) <= QUESTION_AND_ANSWER):
            yield key


def corpus_digest(documents: Sequence[str]) -> str:
    """Return the digest of an ordered set of documents."""
    return digest_of_json(list(documents))


def pack_windows(
    documents: Iterable[Sequence[int]], *, length: int, samples: int, seed: int, separator: int | None = None
) -> list[list[int]]:
    """Join token lists and cut them into windows, of which the seed picks some.

    The last, shorter window counts when nothing longer is there, so that a small set is used whole.

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
    order = sorted(range(len(windows)), key=lambda index: _hash(f"{seed}:{index}"))
    return [windows[index] for index in order[:samples]]


def spread_windows(tokens: Sequence[int], *, length: int, count: int, with_rest: bool = False) -> list[list[int]]:
    """Cut `count` windows evenly from a token stream; fewer when there are not so many whole ones.

    Args:
        tokens: The stream.
        length: Tokens of a window.
        count: The most windows.
        with_rest: Where there are fewer whole windows, what is left over makes a shorter one.
    """
    whole = [list(tokens[start : start + length]) for start in range(0, len(tokens) - length + 1, length)]
    if len(whole) < count:
        rest = list(tokens[len(whole) * length :])
        return [*whole, rest] if with_rest and len(rest) > 1 else whole
    return [whole[index * len(whole) // count] for index in range(count)]


def _passages(text: str) -> list[tuple[str, str | None]]:
    """Split a text at blank lines into (passage, key); the key is None where a passage is too short to count."""
    found: list[tuple[str, str | None]] = []
    for passage in _BLANK_LINES.split(text):
        key = " ".join(passage.split())
        found.append((passage, key if len(key) >= MIN_PASSAGE_CHARS else None))
    return found


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
