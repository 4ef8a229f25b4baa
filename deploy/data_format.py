"""The format of what a stack holds (events, records, artifacts), and the sentence that refuses data of another one."""

DATA_FORMAT = 3
"""It rises when older data can no longer be used. 2: versions are signed, and what is not is not loaded.
3: the subject of an event ends with its sender, and who approved or cancelled is no field of the event.
"""
CLUSTER_DATA_FORMAT = 4
"""Of a state folder with three NATS servers, whose data is of the format before it, 3. A Slipway without `up --nats`
refuses it: it would start one of the servers alone, on what that stored. The next `DATA_FORMAT` is 5, and this then 6.
"""


def refuse(where: str, data_format: int | None, advice: str) -> str | None:
    """Return why data of a format cannot be used, and what to do; None if it can be.

    Args:
        where: What holds the data; the subject of the sentence, with its verb.
        data_format: The format of the data, 0 for data from before formats; None if none is recorded (maybe foreign).
        advice: What to do instead.
    """
    if data_format == DATA_FORMAT:
        return None
    if data_format is None:
        which = f"data of an older Slipway, or of something else (no format is recorded, this one uses {DATA_FORMAT})"
        return f"{where} {which}; {advice}"
    which = "an older" if data_format < DATA_FORMAT else "a newer"
    return f"{where} data of {which} Slipway (format {data_format}, this one uses {DATA_FORMAT}); {advice}"
