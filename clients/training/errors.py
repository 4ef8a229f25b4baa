"""The error that publishing a checkpoint raises."""


class PublishError(Exception):
    """The checkpoint was not published; the message says why and what to do. Publishing again is always safe."""
