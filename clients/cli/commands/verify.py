"""`slipway verify`: proofs of a version, from an answer's fingerprint to the training data's hash."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from clients.cli.connection import StackAddress, find_stack
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, Exit, is_terminal, show_json, show_line, show_table
from clients.cli.releases.resolving import AnsweringArgument, advise, find_answering
from clients.cli.releases.version_records import attester_keys, find_version, open_store, version_numbers
from shared.provenance.verification import Finding, Verification


def verify(
    what: AnsweringArgument,
    *,
    files: Annotated[bool, typer.Option(help="Read every file and compare its digest.")] = True,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a version, or an answer's version: signatures, digests and records, back to the training data's hash.

    The exit code is 1 if anything is altered, missing, or not attested by a key that may attest it.
    """
    findings = asyncio.run(asyncio.to_thread(_verify, find_stack(state), what, files=files))
    failed = [finding for finding in findings if finding.verdict == "failed"]
    if as_json:
        show_json({"target": what, "verified": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        rows = [(finding.verdict, finding.what, finding.detail) for finding in findings]
        show_table(("verdict", "what", "detail"), rows)
        if not failed:
            read = "every file was read" if files else "files were not read (--files reads them)"
            show_line(f"{what} is proven back to its base model and its {findings[-1].what}'s stated hash; {read}")
    if failed:
        names = ", ".join(dict.fromkeys(finding.what for finding in failed))
        raise CommandError(f"{what} is not proven: {names}; see docs/security.md", Exit.FAILED)


def _verify(stack: StackAddress, what: str, *, files: bool) -> tuple[Finding, ...]:
    model, number, variant, digest = find_answering(stack, what)
    if number == 0:
        raise CommandError("version 0 is the base model, which no release has signed; verify a version that names it")
    keys = attester_keys(stack)
    store = open_store(stack)
    if not version_numbers(store, model):
        raise CommandError(f"{model} has no registered version{advise(stack, model, f'slipway status {model}')}")
    version = find_version(store, model, number)

    def progress(name: str) -> None:
        if is_terminal():
            typer.echo(f"\r\033[Kreading {name}", nl=False, err=True)

    verification = Verification(store, keys, read_files=files, progress=progress)
    findings = verification.version(model, number, variant)
    if files and is_terminal():
        typer.echo("\r\033[K", nl=False, err=True)
    if digest is None:
        return findings
    manifests = {each.variant: each.manifest.digest for each in version.manifest.variants}
    manifest = manifests.get(variant or "bf16", "").removeprefix("sha256:")
    if not manifest.startswith(digest):
        reason = f"it names the manifest {digest}…, {model}@v{number} has {manifest[:8] or 'no such variant'}…"
        return (Finding("fingerprint", "failed", reason), *findings)
    return (Finding("fingerprint", "proven", f"it names variant {variant} with the manifest {digest}…"), *findings)
