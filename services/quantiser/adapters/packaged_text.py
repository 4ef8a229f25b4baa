"""The packaged text: Python's reference documentation, in English, part of every installation."""

from functools import cache

from services.quantiser.domain import CorpusSplit, split_topics


@cache
def packaged_split() -> CorpusSplit:
    """Return the packaged calibration and held-out documents."""
    from pydoc_data.topics import topics

    return split_topics(topics)
