"""What can go wrong on the training side."""


class PublishError(Exception):
    """The checkpoint was not published; the message says what to do. Publishing again is always safe."""
