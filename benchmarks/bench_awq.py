"""Where AWQ by llmcompressor loses quality: AutoAWQ and variations of llmcompressor's search, in one run.

SmolLM2-135M-Instruct, INT4 with zero points in groups of 64, the service's own calibration text. Quality is measured
on the written files after reloading them, in float32, against the merged model. `range`: whether the scale of a group
covers its largest weight (`minmax`) or has the least squared error (`mse`), which clips. `scales tried`: points of the
search per layer; `both` divides them between scaling by activations alone and by activations and weights.
Run: python benchmarks/bench_awq.py [--only NAME …] [--samples 4] [--windows 8] [--layers 30]
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from transformers import AutoTokenizer

from benchmarks.parts import show_table
from contracts.facts import QuantiseSettings
from examples.smollm2.base import save_smollm2
from services.quantiser.adapters import autoawq, compression, evaluation
from services.quantiser.adapters.calibration_set import calibration_windows
from services.quantiser.adapters.packaged_text import packaged_split
from services.quantiser.domain import QuantisationPlan, QuantiserDefaults, plan_quantisation, read_shape, spread_windows


@dataclass(frozen=True)
class Variation:
    """One way to search for scales; `engine` says whose search it is."""

    engine: Literal["autoawq", "llmcompressor"] = "llmcompressor"
    observer: str = "memoryless_minmax"
    duo_scaling: bool | str = True
    trials: int = 20


VARIATIONS = {
    "service before": Variation(observer="memoryless_mse", duo_scaling="both", trials=10),
    "other range": Variation(duo_scaling="both", trials=10),
    "other search": Variation(observer="memoryless_mse"),
    "both": Variation(),
    "autoawq": Variation(engine="autoawq"),
}
DEFAULT = ("autoawq", "service before", "other range", "other search", "both")


def make(
    variation: Variation, plan: QuantisationPlan, merged: Path, output: Path, windows: list[list[int]], *, layers: int
) -> None:
    """Write the variant of one variation; layers after the first ones stay in 16 bit."""
    output.mkdir()
    if variation.engine == "autoawq":

        class First(autoawq.SafeAwqQuantizer):
            def init_quant(self, *args: Any, **more: Any) -> Any:
                modules, *rest = super().init_quant(*args, **more)
                return modules[:layers], *rest

        autoawq.reporting_quantiser = lambda _on_layer: First
        autoawq.quantise_awq(plan, merged, output, windows, lambda _done: None)
        return
    scheme = compression._groups(plan)  # noqa: SLF001 - what the service does, with one difference
    weights = scheme["group_0"].weights.model_copy(update={"observer": variation.observer})
    scheme["group_0"] = scheme["group_0"].model_copy(update={"weights": weights})
    search: Any = {"duo_scaling": variation.duo_scaling, "n_grid": variation.trials}
    later = [f"re:.*layers[.]{number}[.].*" for number in range(layers, plan.layers)]
    recipe = [
        AWQModifier(**search),
        QuantizationModifier(config_groups=scheme, ignore=[*plan.ignored_modules, *later]),
    ]
    compression.compress_by(recipe, plan, merged, output, windows)


def texts(tokenizer: Any, count: int) -> dict[str, list[list[int]]]:
    """Return the windows of both texts: held out from the packaged one, and scikit-learn's descriptions."""
    described = sorted((resources.files("sklearn") / "datasets" / "descr").iterdir(), key=lambda path: path.name)
    other = "\n\n".join(path.read_text(encoding="utf-8") for path in described if path.name.endswith(".rst"))
    both = {"held out": "\n\n".join(packaged_split().held_out), "other": other}
    ids = {name: tokenizer(text, add_special_tokens=False)["input_ids"] for name, text in both.items()}
    return {name: spread_windows(tokens, length=512, count=count) for name, tokens in ids.items()}


def rows(
    merged: Path, scratch: Path, names: list[str], samples: int, count: int, *, layers: int
) -> Iterator[list[str]]:
    """Yield the row of each variation."""
    shape = read_shape(json.loads((merged / "config.json").read_text()), "bfloat16")
    settings = QuantiseSettings(calibration_samples=samples, calibration_tokens=512)
    tokenizer = AutoTokenizer.from_pretrained(merged)
    reference, windows = evaluation.load_narrow(merged), texts(tokenizer, count)
    for name in names:
        variation = VARIATIONS[name]
        plan = plan_quantisation("awq-int4", shape, settings, QuantiserDefaults(awq_engine=variation.engine))
        assert isinstance(plan, QuantisationPlan)
        assert plan.calibration is not None
        torch.manual_seed(0)
        began, output = time.process_time(), scratch / name.replace(" ", "-")
        make(variation, plan, merged, output, calibration_windows(plan.calibration, tokenizer, None), layers=layers)
        seconds = time.process_time() - began
        candidate = evaluation.load_variant(output, plan.engine, plan.dtype)
        figures = [evaluation.measure_quality(reference, candidate, ids, _ignore)[0] for ids in windows.values()]
        range_of = "minmax" if variation.engine == "autoawq" else variation.observer.removeprefix("memoryless_")
        row = [name, range_of, str(variation.duo_scaling), str(variation.trials), f"{seconds:.0f}"]
        for quality in figures:
            row += [f"{quality.perplexity_ratio:.4f}", f"{quality.mean_kl:.4f}"]
        print(row, file=sys.stderr, flush=True)
        yield row


def _ignore(_done: int, _total: int) -> None:
    """Do nothing: the rows are the progress."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=VARIATIONS, help="only this variation, repeatable")
    parser.add_argument("--samples", type=int, default=4, help="calibration windows of 512 tokens")
    parser.add_argument("--windows", type=int, default=8, help="windows of 512 tokens that quality is measured on")
    parser.add_argument("--layers", type=int, default=30, help="how many layers are quantised, of 30")
    parser.add_argument("--model", type=Path, help="folder of a model; by default the packaged SmolLM2")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        merged = given.model or Path(scratch) / "merged"
        if given.model is None:
            save_smollm2(merged)
        head = ["variation", "range", "duo scaling", "scales tried", "CPU s"]
        head += ["perplexity ratio", "mean KL", "ratio on other text", "mean KL on other text"]
        names = given.only or list(DEFAULT)
        show_table(head, list(rows(merged, Path(scratch), names, given.samples, given.windows, layers=given.layers)))


if __name__ == "__main__":
    main()
