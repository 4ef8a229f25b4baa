"""`slipway sample-lora`: LoRAs with random weights, so that the first release needs no training."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from clients.cli.commands.base import CONFIG, import_base
from clients.cli.connection import find_stack
from clients.cli.errors import CommandError
from clients.cli.options import StateOption
from clients.cli.output import show_line
from clients.cli.releases.version_records import list_bases, open_store
from contracts.manifests import BaseManifest, FolderManifest
from shared.storage.blobs import Store

BASE = "sample-base"
LORAS = ("lora-1", "lora-2")
POLICY = """\
# A policy for a first look: it measures little. `slipway policy init` writes one with every choice.
gates: [{metric: error_ratio, max_value: 0.01}]
load: {requests: 10, rate_rps: 4.0, output_tokens: 8, warmup_requests: 1}
rehearsal: required
no_previous: base
canary: {steps: [0.4], min_requests: 20, beta: 0.5, deadline_s: 900}
triggers:
  - {name: slow, metric: ttft_ms, threshold: 2500, allowed_ratio: 0.1, min_requests: 10, action: automatic}
"""


def sample_lora(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where they are written; made when missing.")],
    *,
    base: Annotated[
        str | None,
        typer.Option(help=f"Imported base model that they are for (default: a tiny one, imported as {BASE})."),
    ] = None,
    state: StateOption = None,
) -> None:
    """Write two LoRAs with random weights, a policy for a first look, and a file that stands for training data.

    A second version needs the second LoRA: a canary compares it with the first.
    """
    from clients.cli.sources.sample_model import save_base, save_lora

    store = open_store(find_stack(state))
    folder.mkdir(parents=True, exist_ok=True)
    if base is None:
        save_base(folder / "base")
        import_base(store, folder / "base", BASE, None, source="slipway sample-lora")
    with tempfile.TemporaryDirectory() as scratch:
        configuration = folder / "base" if base is None else _fetch_config(store, base, Path(scratch))
        for seed, name in enumerate(LORAS):
            try:
                save_lora(configuration, folder / name, base=base or BASE, seed=seed)
            except ValueError as error:
                raise CommandError(f"no LoRA can be made for {base}: {error}") from error
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "train.jsonl").write_text('{"prompt": "nothing was trained", "completion": "the weights are random"}\n')
    show_line(
        f"{folder} has {' and '.join(LORAS)} for the base {base or BASE}, policy.yaml and train.jsonl; "
        f"publish with `slipway publish --model demo --base {base or BASE} --adapter {folder}/{LORAS[0]} "
        f"--variant bf16 --data {folder}/train.jsonl --policy {folder}/policy.yaml --wait`"
    )


def _fetch_config(store: Store, base: str, into: Path) -> Path:
    """Download the configuration of an imported base model; return its folder."""
    content = FolderManifest.model_validate_json(store.get(find_imported(store, base).folder))
    store.fetch_files([file for file in content.files if file.path == CONFIG], into)
    return into


def find_imported(store: Store, name: str) -> BaseManifest:
    """Return the newest imported base model of `NAME` or `NAME@REVISION`.

    Raises:
        CommandError: there is none.
    """
    bases = sorted(list_bases(store), key=lambda each: each.imported_at)
    named = [each for each in bases if name in (each.name, f"{each.name}@{each.revision}")]
    if not named:
        known = ", ".join(sorted({each.name for each in bases})) or "none"
        raise CommandError(f"the base model {name} was not imported; the imported ones: {known}")
    return named[-1]
