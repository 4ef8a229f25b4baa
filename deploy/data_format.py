"""The format of a stack's data (events, records, artifacts), and the error for data of another format."""

DATA_FORMAT = 5
"""It rises when older data can no longer be used."""


def refuse(where: str, data_format: int | None, advice: str) -> str | None:
    """Return why data of a format cannot be used, and what to do; None for the current format.

    Args:
        where: Subject and verb of the sentence: the holder of the data.
        data_format: The format of the data, 0 without a number; None if none is recorded.
        advice: What to do instead.
    """
    if data_format == DATA_FORMAT:
        return None
    if data_format is None:
        which = f"data of an older Slipway, or of something else (no format is recorded, this one uses {DATA_FORMAT})"
        return f"{where} {which}; {advice}"
    which = "an older" if data_format < DATA_FORMAT else "a newer"
    return f"{where} data of {which} Slipway (format {data_format}, this one uses {DATA_FORMAT}); {advice}"
