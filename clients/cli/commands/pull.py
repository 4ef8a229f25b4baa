"""`slipway pull`: download the files of a version, verified against the signed manifest."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from clients.cli.connection import StackAddress, find_stack
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, Exit, show_result
from clients.cli.releases.resolving import VersionArgument, find_version_name
from clients.cli.releases.version_records import attester_keys, find_version, open_store
from clients.cli.sources.upload import Advance, progress_bar, steps
from contracts.facts import RegisteredVariant
from contracts.manifests import FileEntry, VariantManifest, VersionManifest
from contracts.vocabulary import Target
from shared.errors import SlipwayError
from shared.provenance.verification import Verification
from shared.storage.blobs import Store

PART = ".part-"
"""Prefix of the names of partial files."""


def pull(
    what: VersionArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the files: new, empty, or of this pull.")],
    *,
    variant: Annotated[str | None, typer.Option(metavar="PRECISION", help="Precision (default: the only one).")] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Download the files of a version into a folder that any server loads; run it again to go on after a failure."""
    stack = find_stack(state)
    model, number = find_version_name(stack, what)
    if number == 0:
        raise CommandError("version 0 is the base model: its files are where it was imported from")
    store = open_store(stack)
    version = find_version(store, model, number).manifest
    target = Target(model=model, version=number, variant=find_variant(version, variant).variant)
    try:
        registered = find_signed(stack, store, target)
        manifest = VariantManifest.model_validate_json(store.get(registered.manifest))
        size = sum(file.size_bytes for file in manifest.files)
        with progress_bar(f"pulling {target}", size, shown=not as_json) as advance:
            for file in find_missing(folder, target, manifest.files, advance):
                store.fetch_files([file], folder, store.prefix_of(registered.manifest), steps(advance))
    except SlipwayError as error:
        raise CommandError(f"{target} was not pulled: {error.reason}", name=error.code) from error
    except OSError as error:
        raise CommandError(f"the folder {folder} cannot be used: {error}") from error
    digest = registered.manifest.digest
    data = {"target": str(target), "folder": str(folder), "manifest": digest, "size_bytes": size}
    line = f"{target}: {len(manifest.files)} files, {size / 1e6:,.1f} MB in {folder}, as signed"
    show_result(data, line, as_json=as_json)


def find_variant(version: VersionManifest, name: str | None) -> RegisteredVariant:
    """Return a variant of a version by name, by default the only variant.

    Raises:
        CommandError: there is no such variant, or several.
    """
    matching = [each for each in version.variants if name in (None, each.variant)]
    if len(matching) == 1:
        return matching[0]
    known = ", ".join(each.variant for each in version.variants)
    what = "several variants" if name is None else f"no variant {name!r}"
    raise CommandError(
        f"{version.model}@v{version.version} has {what}: choose one of {known} with --variant", Exit.USAGE
    )


def find_signed(stack: StackAddress, store: Store, target: Target) -> RegisteredVariant:
    """Return a variant of the signed manifest of a version, with attested manifest and files.

    Raises:
        CommandError: Something is altered, missing, or not attested by a permitted key.
    """
    keys = attester_keys(stack)
    verification = Verification(store, keys, read_files=False)
    about = verification.version(target.model, target.version, target.variant)
    variant = f"variant {target.variant}"
    signature = {"attestations", "attestation 1", "version manifest"}
    needed = [each for each in about if each.what in signature or each.what.startswith(variant)]
    failed = next((each for each in needed if each.verdict == "failed"), None)
    if failed is not None:
        raise CommandError(f"{target} is not proven: {failed.what}: {failed.detail}")
    if verification.manifest is None:
        raise CommandError(f"{target} is not proven: the manifest of {target.model}@v{target.version} is not readable")
    return find_variant(verification.manifest, target.variant)


def find_missing(folder: Path, target: Target, files: Sequence[FileEntry], advance: Advance) -> list[FileEntry]:
    """Return the files of a version that a folder lacks; advance by the size of the files that it has.

    Partial files of an interrupted pull are removed.

    Raises:
        CommandError: The folder holds a file of another name or with other bytes; nothing was removed.
    """
    left = {file.path: file for file in files}
    folder.mkdir(parents=True, exist_ok=True)
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    held = {str(path.relative_to(folder)): path for path in paths if not path.name.startswith(PART)}
    foreign = sorted(held.keys() - left.keys())
    if foreign:
        refuse_file(folder, foreign[0], f"is no file of {target}")
    for name, path in held.items():
        file = left.pop(name)
        if path.stat().st_size != file.size_bytes or digest_of_file(path) != file.digest:
            refuse_file(folder, name, f"has other bytes than {target}")
        advance(file.size_bytes)
    for path in paths:
        if path.name.startswith(PART):
            path.unlink()
    return list(left.values())


def refuse_file(folder: Path, name: str, why: str) -> NoReturn:
    """Raise CommandError about a file in a folder."""
    raise CommandError(f"{folder} holds {name}, which {why}: remove it, or choose another folder", Exit.USAGE)


def digest_of_file(path: Path) -> str:
    """Return the digest of a file."""
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
