"""`slipway base`: import base models into the store, so that checkpoints can name them."""

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from clients.cli.connection import find_stack
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, Exit, show_list, show_result
from clients.cli.releases.version_records import list_bases, open_store
from clients.cli.sources.external_source import open_source
from clients.cli.sources.upload import model_files, progress_bar, steps, upload_files
from contracts.manifests import BaseManifest, FolderManifest
from contracts.storage.sources import is_weights, parse_hub_uri, scheme_of
from contracts.vocabulary import digest_of
from shared.runtime.clock import SystemClock
from shared.storage.blobs import Store, manifest_key
from shared.storage.sources import Source, store_folder

base_app = typer.Typer(help="Import and list base models.", no_args_is_help=True)

CONFIG = "config.json"
REVISION_CHARS = 12
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


@dataclass(frozen=True)
class Imported:
    """A base model in the store.

    Attributes:
        new: Whether this import added the base model.
    """

    manifest: BaseManifest
    new: bool


@base_app.command("import")
def import_command(
    *,
    folder: Annotated[
        str, typer.Argument(help="Hugging Face model folder with safetensors, or hf://REPO@REVISION.", metavar="FOLDER")
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the base model (default: the name of the folder or repository).")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Revision (default: the commit, or the start of the folder's digest).")
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import a base model: upload its folder and commit its manifest. An imported base model is immutable."""
    stack = find_stack(state)
    store = open_store(stack)
    if scheme_of(folder) == "hf":
        done = import_from_hub(store, open_source(folder, stack, quiet=as_json), name, revision, bar=not as_json)
    else:
        path = Path(folder)
        done = import_base(store, path, name or path.resolve().name, revision, source="folder", bar=not as_json)
    show_result(done.manifest.model_dump(mode="json"), describe(done), as_json=as_json)


def describe(done: Imported) -> str:
    """Return the message about an import."""
    manifest = done.manifest
    if not done.new:
        when = f"{manifest.imported_at:%Y-%m-%d %H:%M} from {manifest.source}"
        return f"{manifest.name} at {manifest.revision} was already imported, {when}; nothing was added"
    size = manifest.weights_bytes / 1e6
    return f"imported {manifest.name} at {manifest.revision}: {manifest.architecture}, {size:.0f} MB of weights"


def import_base(
    store: Store, folder: Path, name: str, revision: str | None, *, source: str, bar: bool = False
) -> Imported:
    """Upload a model folder and commit it as a base model.

    Importing the same folder again returns the existing manifest.

    Raises:
        CommandError: The folder holds no model, or another base model has the same name and revision.
    """
    _check_names(name, revision)
    files = model_files(folder)
    architecture = _architecture(folder, str(folder))
    total = sum(path.stat().st_size for path in files)
    with progress_bar(f"uploading {name}", total, shown=bar) as advance:
        content = upload_files(store, files, advance)
    return commit_base(store, content, name, revision, architecture=architecture, source=source)


def import_from_hub(
    store: Store, source: Source, name: str | None, revision: str | None, *, bar: bool = False
) -> Imported:
    """Copy a repository of the model hub into the store, file by file, and commit it as a base model.

    Nothing is downloaded if the same commit was imported before under this name.

    Raises:
        CommandError: The repository holds no model, or another base model has the same name and revision.
        SlipwayError: The hub does not answer.
    """
    folder = parse_hub_uri(source.uri)
    name = name or folder.repo
    _check_names(name, revision)
    for earlier in list_bases(store):
        if (earlier.name, earlier.source) == (name, source.uri) and revision in (None, earlier.revision):
            return Imported(earlier, new=False)
    if CONFIG not in source.names:
        raise CommandError(
            f"the repository {source.uri} is not a base model: it has no {CONFIG}; "
            "publish a LoRA with `slipway publish --adapter`"
        )
    with (
        tempfile.TemporaryDirectory() as scratch,
        progress_bar(f"copying {source.uri}", source.size_bytes, shown=bar) as advance,
    ):
        source.fetch(CONFIG, Path(scratch))
        architecture = _architecture(Path(scratch), source.uri)
        content = store_folder(store, source, Path(scratch), report=steps(advance))
    return commit_base(
        store, content, name, revision, architecture=architecture, source=source.uri, default_revision=folder.revision
    )


def _check_names(name: str, revision: str | None) -> None:
    for field, text in (("name", name), ("revision", revision or "newest")):
        if not SAFE_NAME.fullmatch(text):
            raise CommandError(
                f"the {field} {text!r} of the base model is not valid: "
                "use letters, digits, dots, hyphens, underscores and inner slashes",
                Exit.USAGE,
            )


def commit_base(
    store: Store,
    content: FolderManifest,
    name: str,
    revision: str | None,
    *,
    architecture: str,
    source: str,
    default_revision: str | None = None,
) -> Imported:
    """Commit stored files as a base model, or return the existing one with the same name, revision and digest.

    Args:
        store: The store that holds the files.
        content: The files.
        name: Name of the base model.
        revision: Revision; None accepts any revision of an existing base model with this name and digest.
        architecture: The architecture in its configuration.
        source: Origin of the import.
        default_revision: Revision to use if `revision` is None (default: the start of the digest).

    Raises:
        CommandError: The revision of this name exists with other files.
    """
    digest = digest_of(content.to_bytes())
    for base in list_bases(store):
        if (base.folder.digest, base.name) == (digest, name) and revision in (None, base.revision):
            return Imported(base, new=False)
    ref, _ = store.put_manifest(manifest_key("folder", digest), content)
    chosen = revision or default_revision or digest.removeprefix("sha256:")[:REVISION_CHARS]
    manifest = BaseManifest(
        name=name,
        revision=chosen,
        folder=ref,
        architecture=architecture,
        source=source,
        weights_bytes=sum(file.size_bytes for file in content.files if is_weights(file.path)),
        imported_at=SystemClock().now(),
    )
    key = f"bases/{name}/{chosen}.json"
    _, created = store.put_manifest(key, manifest)
    if created:
        return Imported(manifest, new=True)
    earlier = BaseManifest.model_validate_json(store.find(key) or b"{}")
    if earlier.folder.digest != ref.digest:
        raise CommandError(
            f"the base model {name} at {chosen} exists with other files: choose another --name or --revision"
        )
    return Imported(earlier, new=False)


def _architecture(folder: Path, where: str) -> str:
    try:
        architectures = json.loads((folder / CONFIG).read_text())["architectures"]
        return str(architectures[0])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise CommandError(f"{CONFIG} of {where} names no architecture: {error!r}") from error


@base_app.command("list")
def list_command(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the imported base models."""
    bases = list_bases(open_store(find_stack(state)))
    rows = [
        (
            base.name,
            base.revision,
            base.architecture,
            f"{base.weights_bytes / 1e6:.0f} MB",
            f"{base.imported_at:%Y-%m-%d %H:%M}",
            base.source,
        )
        for base in bases
    ]
    columns = ("name", "revision", "architecture", "weights", "imported", "source")
    empty = "no base models; import one with `slipway base import`"
    show_list([base.model_dump(mode="json") for base in bases], columns, rows, as_json=as_json, empty=empty)
