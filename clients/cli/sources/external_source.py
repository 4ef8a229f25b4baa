"""Open folders outside the store: resolve a branch to its commit, print it, compute the digest."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from clients.cli.connection import StackAddress
from clients.cli.output import show_line
from clients.cli.sources.upload import progress_bar
from contracts.facts import Weights
from contracts.storage.sources import HUB
from contracts.vocabulary import ArtifactRef, digest_of
from shared.runtime.settings import SourceSettings, variable_of
from shared.storage.sources import Source, Sources, describe_file, read_folder

ADAPTER_CONFIG = "adapter_config.json"
MODEL_CONFIG = "config.json"


def open_source(uri: str, stack: StackAddress, *, quiet: bool) -> Source:
    """Return a folder outside the store, permitted by `SLIPWAY_HF_ENDPOINT` or `SLIPWAY_FILE_ROOTS`.

    For a stack on this machine the default hub is the same as in `slipway up`; an empty variable means no hub.

    Raises:
        SlipwayError: The folder is not permitted, does not exist, or its server does not answer.
    """
    settings = SourceSettings()
    if stack.is_local and variable_of(SourceSettings, "hf_endpoint") not in os.environ:
        settings = settings.model_copy(update={"hf_endpoint": HUB})
    source = Sources(settings).open(uri)
    if source.uri != uri and not quiet:
        show_line(f"{uri} resolves to {source.uri}")
    return source


@contextlib.contextmanager
def configuration_of(source: Source) -> Iterator[Path]:
    """Return a folder with the configuration of a checkpoint outside the store, and no other file of it."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in [each for each in (ADAPTER_CONFIG, MODEL_CONFIG) if each in source.names][:1]:
            source.fetch(name, Path(scratch))
        yield Path(scratch)


def describe_weights(source: Source, *, quiet: bool) -> Weights:
    """Return the reference to a checkpoint outside the store: its pinned URI, kind, and the digest of its files."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        progress_bar(f"reading {source.uri}", source.size_bytes, shown=not quiet) as advance,
    ):
        data = read_folder(source, Path(scratch), describe_file, advance).to_bytes()
    kind = "lora" if ADAPTER_CONFIG in source.names else "full"
    return Weights(kind=kind, ref=ArtifactRef(uri=source.uri, digest=digest_of(data), size_bytes=len(data)))
