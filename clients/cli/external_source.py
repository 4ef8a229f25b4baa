"""Looks into folders outside the store for a person: follows a branch to its commit, says so, takes the fingerprint."""

import tempfile
from pathlib import Path

from clients.cli.output import show_line
from clients.cli.upload import progress_bar
from contracts.facts import Weights
from contracts.vocabulary import ArtifactRef, digest_of
from shared.runtime.settings import SourceSettings
from shared.storage.sources import Source, Sources, describe_file, read_folder

ADAPTER_CONFIG = "adapter_config.json"


def open_source(uri: str, *, quiet: bool) -> Source:
    """Open a folder outside the store, in the places that `SLIPWAY_HF_ENDPOINT` and `SLIPWAY_FILE_ROOTS` allow.

    Raises:
        SlipwayError: it may not be read, is not there, or does not answer.
    """
    source = Sources(SourceSettings()).open(uri)
    if source.uri != uri and not quiet:
        show_line(f"{uri} is {source.uri}")
    return source


def announce(uri: str, *, quiet: bool) -> Weights:
    """Read a checkpoint where it lies and say what it is: its pinned name, kind, and the digest of its files."""
    source = open_source(uri, quiet=quiet)
    with (
        tempfile.TemporaryDirectory() as room,
        progress_bar(f"reading {source.uri}", source.size_bytes, shown=not quiet) as advance,
    ):
        data = read_folder(source, Path(room), describe_file, advance).to_bytes()
    kind = "lora" if ADAPTER_CONFIG in source.names else "full"
    return Weights(kind=kind, ref=ArtifactRef(uri=source.uri, digest=digest_of(data), size_bytes=len(data)))
