"""Peak memory of an evaluation per parameter: the service's, beside both models in float32 at once.

Two Llamas with random weights that differ in their number of layers are quantised without calibration, and each is
measured in a process of its own. The difference of the two peaks, divided by the difference of the parameters, has
no share of libraries, logits and activations. The peak is the largest resident memory (`ru_maxrss`), mapped files
included.
Run: python benchmarks/bench_evaluation_memory.py [--variant int8 …]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from transformers import LlamaConfig

from benchmarks.parts import show_table
from contracts.facts import QuantiseSettings
from contracts.vocabulary import Variant
from services.quantiser.domain import QuantisationPlan, QuantiserDefaults, plan_quantisation, read_shape
from services.quantiser.ports import QuantisationJob
from testbed.models import tiny_base
from testbed.quantiser import ROOT

LAYERS = (4, 16)
WAYS = {"both models in float32": "together", "one at a time (the service)": "service"}
MEASURE = """
import resource, sys
from functools import partial
import torch
from transformers import AutoTokenizer
from services.quantiser.adapters import evaluation, quantise_worker
from services.quantiser.domain import spread_windows
from services.quantiser.ports import QuantisationJob

job, way = QuantisationJob.model_validate_json(sys.argv[1]), sys.argv[2]
tokenizer = AutoTokenizer.from_pretrained(job.merged)
if way == "make":
    job.output.mkdir()
    quantise_worker.make_weights(job, tokenizer)
    quantise_worker.copy_small_files(job.merged, job.output)
elif way == "service":
    quantise_worker.measure(job, tokenizer)
else:
    text = "\\n\\n".join(quantise_worker.packaged_split().held_out)
    windows = spread_windows(tokenizer(text)["input_ids"], length=job.plan.held_out.tokens, count=2)
    reference = evaluation.load_reference(job.merged)
    variant = evaluation.load_variant(job.output, job.plan.engine, job.plan.dtype)
    evaluation.measure_quality(reference, variant, windows, lambda *_: None)
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)
"""


def make_model(folder: Path, layers: int) -> int:
    """Write a random model and return the number of its parameters."""
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=16,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    tiny_base(folder, config=config, shard_size="50MB")
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) // 2


def peak_bytes(job: QuantisationJob, way: str) -> int:
    """Run one step in a process of its own; return its peak memory."""
    command = [sys.executable, "-c", MEASURE, job.model_dump_json(), way]
    done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return int(done.stdout.rpartition("PEAK ")[2])


def rows(scratch: Path, variants: list[Variant]) -> Iterator[list[str]]:
    """Yield the row of each precision and way."""
    defaults = QuantiserDefaults(held_out_windows=2, held_out_tokens=128, min_calibration_tokens=64)
    models = {layers: scratch / f"merged-{layers}" for layers in LAYERS}
    parameters = {layers: make_model(folder, layers) for layers, folder in models.items()}
    for variant in variants:
        jobs = {}
        for layers, merged in models.items():
            config = json.loads((merged / "config.json").read_text())
            settings = QuantiseSettings(calibration_samples=0)
            plan = plan_quantisation(variant, read_shape(config, "bfloat16"), settings, defaults)
            assert isinstance(plan, QuantisationPlan), plan
            folder = scratch / f"{variant}-{layers}"
            folder.mkdir()
            jobs[layers] = QuantisationJob(plan=plan, merged=merged, output=folder / "output")
            peak_bytes(jobs[layers], "make")
        for name, way in WAYS.items():
            small, large = (peak_bytes(jobs[layers], way) for layers in LAYERS)
            each = (large - small) / (parameters[LAYERS[1]] - parameters[LAYERS[0]])
            yield [variant, name, f"{small / 1e9:.2f}", f"{large / 1e9:.2f}", f"{each:.1f}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", action="append", choices=["int8", "fp8"], help="repeatable; default: both")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        head = ["variant", "evaluation", *(f"peak GB, {layers} layers" for layers in LAYERS), "bytes a parameter"]
        show_table(head, list(rows(Path(scratch), given.variant or ["int8", "fp8"])))


if __name__ == "__main__":
    main()
