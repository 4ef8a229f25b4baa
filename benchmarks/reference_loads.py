"""How much do two loads of the same weights differ on the fixed texts, and how much do loads of other weights?

vLLM loads SmolLM2-135M-Instruct in bfloat16 as server-manager lets it, and scores the texts of ADR 0051 each time.
"Read again" replaces the weights of a running engine by those of a folder; "new engine" starts its processes again.
Changed copies have a LoRA of rank 8 on the query and value projections, of a share of their norm, or zeros in place of
a MiB of one matrix; that of 0 % is a copy with the same weights.
Run: .venv-engine/bin/python benchmarks/reference_loads.py --base FOLDER (of examples.smollm2.base)
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from services.server_manager.domain.references import TEXTS, Answer, distance_nats

ADAPTERS = (0.0, 0.0003, 0.001, 0.003, 0.01, 0.03)
DAMAGED = "model.layers.15.mlp.down_proj.weight"
Change = Callable[[dict[str, Any]], None]


def adapt(weights: dict[str, Any], share: float) -> None:
    """Add a LoRA of rank 8 to all query and value projections, of a share of their norm."""
    import torch

    torch.manual_seed(0)
    for name, weight in weights.items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            update = torch.randn(weight.shape[0], 8) @ torch.randn(8, weight.shape[1])
            weight.add_((share * weight.float().norm() / update.norm() * update).to(weight.dtype))


def damage(weights: dict[str, Any]) -> None:
    """Clear a MiB of one matrix."""
    weights[DAMAGED].view(-1)[: 2**19] = 0


def copy_changed(base: Path, folder: Path, change: Change) -> Path:
    """Return a copy of a model whose weights a function has changed."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    (path,) = folder.glob("*.safetensors")
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def start(base: Path, dtype: str = "bfloat16") -> Any:
    """Return a new engine."""
    from vllm import LLM

    return LLM(model=str(base), dtype=dtype, enforce_eager=True, max_model_len=512, max_num_seqs=8)


def score(engine: Any, together: int = 1) -> Answer:
    """Return what an engine answers, so many texts at the same time."""
    from vllm import SamplingParams

    sampling, answer = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0), []
    for begin in range(0, len(TEXTS), together):
        for result in engine.generate(list(TEXTS[begin : begin + together]), sampling, use_tqdm=False):
            pairs = zip(result.prompt_token_ids, result.prompt_logprobs, strict=True)
            answer.append(tuple(logprobs[token].logprob for token, logprobs in pairs if logprobs))
    return tuple(answer)


def read_again(engine: Any, folder: Path) -> Answer:
    """Replace the weights of an engine by those of a folder; return what it answers then."""
    engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
    return score(engine)


def show(name: str, first: Answer, *others: Answer) -> None:
    """Print how far answers are from the first one."""
    distances = [distance_nats(first, other) for other in others]
    print(f"| {name} | {len(others)} | {sum(map(bool, distances))} | {max(distances):.5f} |", flush=True)


def main() -> None:
    """Load, score and print the distances."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--reads", type=int, default=100)
    parser.add_argument("--engines", type=int, default=4)
    given = parser.parse_args()
    os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1")
    changes: dict[str, Change] = {f"LoRA of {share:.2%}": partial(adapt, share=share) for share in ADAPTERS}
    print("| loads | number | differ | largest difference, nats a token |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        engine = start(given.base)
        first = score(engine)
        show("texts together", first, score(engine, 2), score(engine, len(TEXTS)))
        show("the same, read again", first, *[read_again(engine, given.base) for _ in range(given.reads)])
        for number, (name, change) in enumerate({**changes, "a cleared MiB": damage}.items()):
            show(name, first, read_again(engine, copy_changed(given.base, Path(scratch, str(number)), change)))
        show("the same, read again after them", first, read_again(engine, given.base))
        others = []
        for _ in range(given.engines):
            del engine  # ends its processes
            engine = start(given.base)
            others.append(score(engine))
        show("the same, new engine", first, *others)
        del engine
        show("float32", first, score(start(given.base, "float32")))


if __name__ == "__main__":
    main()
