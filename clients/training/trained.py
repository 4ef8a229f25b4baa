"""Publishing of a trained model from all processes of the training: the first saves, uploads and announces."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from clients.training.errors import PublishError
from clients.training.gathering import Weights, gather, unwrapped
from clients.training.options import Options, completed
from clients.training.processes import Processes
from clients.training.publish import publish_checkpoint
from clients.training.run import Published, Run
from clients.training.saved import named_on_failure, new_folder

if TYPE_CHECKING:
    from typing import Unpack  # novm: type checkers only

Evaluate = Callable[[Any], Sequence[Mapping[str, Any]]]


def publish_trained(  # noqa: D417 - the others are those of publish_checkpoint
    trained: Any,
    *,
    model: str,
    base: str,
    run: Run,
    folder: Path | str | None = None,
    evaluate: Evaluate | None = None,
    tokenizer: Any = None,
    kept_in: Path | str | None = None,
    **options: Unpack[Options],
) -> Published:
    """Save a trained model and publish it, once; call it in every process of the training.

    All processes gather sharded weights (FSDP, ZeRO-3). The first process of all nodes saves with `save_pretrained`,
    uploads and publishes; the others wait. An error is raised in every process.

    Args:
        trained: A model of transformers or PEFT, also within DDP, FSDP, DeepSpeed or torch.compile.
        folder: Folder of the first process for the checkpoint; by default a new folder, removed after publishing. The
            error of a failure names it.
        evaluate: Called with the trained model in every process after the save. The results of the first process are
            published.
        tokenizer: Tokenizer or processor of the training. It is saved if the checkpoint includes the embedding (full
            weights, or a LoRA with the embedding), for added tokens.
        kept_in: Parent of the new folder; by default the system's temporary folder.

    The other arguments are those of `publish_checkpoint`.

    Raises:
        PublishError: Publishing failed in this or another process.
    """
    chosen = completed(options)  # a mistake is refused before all processes gather
    processes = Processes()
    chosen_folder = None if folder is None else Path(folder)
    beside = None if kept_in is None else Path(kept_in)
    saved = save_in_first(processes, trained, chosen_folder, beside=beside, tokenizer=tokenizer)
    with named_on_failure(saved):
        if evaluate is not None:
            run = replace(run, evals=tuple(processes.together(lambda: evaluate(trained))))
        run = replace(run, finished_at=run.finished_at or datetime.now(timezone.utc))  # noqa: TID251 - no shared clock
        published = processes.in_first(lambda: publish_checkpoint(saved, model=model, base=base, run=run, **chosen))
    if folder is None and processes.is_first:
        shutil.rmtree(saved, ignore_errors=True)
    return published


def save_in_first(
    processes: Processes, trained: Any, folder: Path | None, *, beside: Path | None, tokenizer: Any
) -> Path:
    """Save a model in the first process with the weights of all processes; return the folder in every process.

    Without a folder, a new folder is made in `beside`, by default in the system's temporary folder.
    """
    weights = processes.together(lambda: gather(trained))

    def saved() -> str:
        chosen = new_folder(beside) if folder is None else folder
        try:
            save(trained, chosen, weights)
        except BaseException:
            if folder is None:
                shutil.rmtree(chosen, ignore_errors=True)
            raise
        with named_on_failure(chosen):  # the weights are there
            complete(trained, chosen, tokenizer)
        return str(chosen)

    return Path(processes.in_first(saved))


def save(trained: Any, folder: Path, weights: Weights | None) -> None:
    """Write a model as safetensors; `weights` are gathered weights, or None if this process has all weights."""
    inner = unwrapped(trained)
    if not hasattr(inner, "save_pretrained"):
        raise PublishError(
            f"The model {type(inner).__name__} cannot be saved: it has no save_pretrained, as models of transformers "
            "and PEFT have. Save it as safetensors with its configuration, and publish the folder by "
            "publish_checkpoint."
        )
    given = {} if weights is None else {"state_dict": weights}
    inner.save_pretrained(folder, safe_serialization=True, **given)


def complete(trained: Any, folder: Path, tokenizer: Any) -> None:
    """Save the tokenizer if the weights include an embedding, and sort the sets in PEFT's configuration.

    `tokenizer` is the training's tokenizer or processor, or None.
    """
    inner = unwrapped(trained)
    _sort_sets(inner, folder / "adapter_config.json")
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    if hasattr(tokenizer, "get_vocab") and has_embedding(folder, getattr(inner, "config", None)):
        tokenizer.save_pretrained(folder)


def has_embedding(folder: Path, config: Any) -> bool:
    """Return whether a saved checkpoint includes the embedding or the head, as full weights and few LoRAs do.

    Other LoRAs are served with the base's tokenizer and chat template: the training's may differ in irrelevant ways,
    for example in marks of the learned tokens.
    """
    adapter = folder / "adapter_model.safetensors"
    if not adapter.is_file():
        return True
    rows = getattr(config, "vocab_size", None)
    with safe_open(adapter, "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    return any(len(shape) == 2 and shape[0] == rows and "lora_" not in name for name, shape in shapes.items())


def _sort_sets(trained: Any, path: Path) -> None:
    """Sort the sets in PEFT's configuration, because their order depends on the hash seed of the process.

    A resumed run then has the same bytes, and the same release.
    """
    if not path.is_file():
        return
    configs = getattr(trained, "peft_config", {}).values()
    names = {name for config in configs for name, value in vars(config).items() if isinstance(value, (set, frozenset))}
    written = json.loads(path.read_text(encoding="utf-8"))
    lists = {name: sorted(written[name]) for name in names if isinstance(written.get(name), list)}
    path.write_text(json.dumps({**written, **lists}, indent=2, sort_keys=True), encoding="utf-8")
