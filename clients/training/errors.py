"""Errors of this client; messages have the reason and what to do."""


class SlipwayClientError(Exception):
    """The request was not carried out."""


class PublishError(SlipwayClientError):
    """The checkpoint was not published. Publishing again is always safe."""


class ReadError(SlipwayClientError):
    """Releases or alerts cannot be read."""
