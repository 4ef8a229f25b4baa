"""Calibration and held-out text never share a passage; windows depend on the seed alone."""

from hypothesis import given
from hypothesis import strategies as st

from services.quantiser.adapters.packaged_text import packaged_split
from services.quantiser.domain import corpus_digest, pack_windows, remove_overlap, split_topics, spread_windows
from services.quantiser.domain.corpus import MIN_PASSAGE_CHARS

PASSAGES = [f"Passage number {n} says something that is long enough to be counted as text." for n in range(12)]
topics = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.lists(st.sampled_from(PASSAGES), min_size=1, max_size=5).map("\n\n".join),
    max_size=12,
)


def passages(documents):
    passages = {" ".join(part.split()) for document in documents for part in document.split("\n\n")}
    return {part for part in passages if len(part) >= MIN_PASSAGE_CHARS}


@given(topics)
def test_split_shares_no_passage(texts):
    split = split_topics(texts)
    assert not passages(split.calibration) & passages(split.held_out)


@given(topics)
def test_split_loses_only_what_is_held_out(texts):
    split = split_topics(texts)
    assert passages(split.calibration) | passages(split.held_out) == passages(texts.values())


@given(topics)
def test_split_depends_on_content_not_on_order(texts):
    assert split_topics(texts) == split_topics(dict(reversed(texts.items())))


def test_packaged_text_is_large_enough_and_split():
    split = packaged_split()
    assert not passages(split.calibration) & passages(split.held_out)
    assert sum(map(len, split.calibration)) > 150_000
    assert sum(map(len, split.held_out)) > 80_000
    assert corpus_digest(split.calibration) != corpus_digest(split.held_out)


def test_a_passage_wrapped_differently_is_the_same_passage():
    held = ["It was the best of times, it was the worst of times, it was the age."]
    own = (
        "It was the best of times, it was\n   the worst of times, it was the age.\n\nSomething else that is mine alone."
    )
    assert remove_overlap([own], held) == ("Something else that is mine alone.",)


def test_short_passages_prove_no_overlap():
    assert remove_overlap(["See also"], ["See also"]) == ("See also",)


def test_a_document_that_is_held_out_whole_falls_away():
    assert remove_overlap([PASSAGES[0]], PASSAGES) == ()


token_lists = st.lists(st.lists(st.integers(0, 99), max_size=30), max_size=10)


@given(token_lists, st.integers(1, 16), st.integers(1, 8), st.integers(0, 5))
def test_windows_are_cut_from_the_stream(documents, length, samples, seed):
    stream = [token for document in documents for token in document]
    windows = pack_windows(documents, length=length, samples=samples, seed=seed)
    assert len(windows) <= samples
    cuts = [stream[start : start + length] for start in range(0, len(stream), length)]
    for window in windows:
        assert window in cuts
    if len(cuts) <= samples:
        assert sum(map(len, windows)) == len(stream)  # a small set is used whole
    else:
        assert all(len(window) == length for window in windows)


def test_seed_picks_the_windows():
    documents = [list(range(1000))]
    first = pack_windows(documents, length=10, samples=5, seed=1)
    assert first == pack_windows(documents, length=10, samples=5, seed=1)
    assert first != pack_windows(documents, length=10, samples=5, seed=2)


def test_separator_stands_between_documents():
    assert pack_windows([[1], [2]], length=4, samples=1, seed=0, separator=9) == [[1, 9, 2, 9]]


@given(st.integers(0, 300), st.integers(1, 20), st.integers(1, 10))
def test_held_out_windows_are_whole_and_spread(tokens, length, count):
    windows = spread_windows(range(tokens), length=length, count=count)
    assert len(windows) == min(count, tokens // length)
    assert len(spread_windows(range(tokens), length=length, count=count, with_rest=True)) <= count
    assert all(len(window) == length for window in windows)
    assert windows == sorted(windows)
    assert len({window[0] for window in windows}) == len(windows)
