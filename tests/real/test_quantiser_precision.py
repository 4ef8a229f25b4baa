"""The fast precision of evaluation and calibration: what stays in float32, and that every instruction set agrees."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from contracts.facts import QuantiseSettings
from services.quantiser.adapters import evaluation, processor, quantise_worker
from services.quantiser.domain import INSTRUCTION_SETS, QuantiserDefaults, plan_quantisation, read_shape
from services.quantiser.domain import precision as rule
from services.quantiser.domain.precision import WITH_BFLOAT16
from services.quantiser.ports import QuantisationJob
from testbed.models import tiny_base

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore::UserWarning")]
ROOT = Path(__file__).resolve().parents[2]
LENGTH = 511
SETTINGS = QuantiseSettings(calibration_samples=2, calibration_tokens=LENGTH)
DEFAULTS = QuantiserDefaults(held_out_windows=3, held_out_tokens=LENGTH, min_calibration_tokens=256)
FEATURES = {name for name, value in torch.cpu.get_capabilities().items() if value is True}
AVAILABLE = [name for name, needed in INSTRUCTION_SETS if needed in FEATURES]


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("model") / "merged", hidden=128)


def order(merged, folder, variant):
    config = json.loads((merged / "config.json").read_text())
    plan = plan_quantisation(variant, read_shape(config, "bfloat16"), SETTINGS, DEFAULTS)
    return QuantisationJob(plan=plan, merged=merged, output=merged if variant == "bf16" else folder / "output")


@contextmanager
def rotary_angles():
    """Record, for every call of a rotary embedding, the positions, and the cosines and sines it returned."""
    calls = []

    def record(module, inputs, named, output):
        if type(module).__name__.endswith("RotaryEmbedding") and output[0].device.type == "cpu":  # not only traced
            positions = named["position_ids"] if "position_ids" in named else inputs[1]
            calls.append((positions.clone(), *(tensor.clone() for tensor in output)))

    handle = register_module_forward_hook(record, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def farthest_from_float64(calls, head_dim=32, theta=10000.0):
    """Return the largest difference of any cosine or sine, and the highest position."""
    inverse = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    off, highest = 0.0, 0
    for positions, cosines, sines in calls:
        angles = positions[0].double()[:, None] * inverse
        for computed, expected in ((cosines, angles.cos()), (sines, angles.sin())):
            assert computed.dtype == torch.float32
            off = max(off, float((computed[0].double() - torch.cat((expected, expected), -1)).abs().max()))
        highest = max(highest, int(positions.max()))
    return off, highest


@pytest.mark.parametrize(
    "variant", ["bf16", "int8", *(pytest.param(name, marks=pytest.mark.full) for name in ("gptq-int4", "awq-int4"))]
)
def test_rotary_angles_are_those_of_float64_wherever_the_worker_computes(merged, tmp_path, variant):
    """From the order to the result, calibration included, up to the last position of the longest window."""
    with rotary_angles() as calls:
        made = quantise_worker.quantise(order(merged, tmp_path, variant))
    assert made.quality.tokens == 3 * (LENGTH - 1)
    off, highest = farthest_from_float64(calls)
    assert highest == LENGTH - 1
    print(variant, len(calls), "calls,", off)
    models = 1 if variant == "bf16" else 2
    assert len(calls) >= models * 3, "three windows of each model"
    assert off < 1e-4, "float32 itself is 3e-5 off at position 510; bfloat16 is 1 off"


@pytest.mark.full
@pytest.mark.skipif("AVX512_CORE_BF16" not in AVAILABLE, reason="this CPU has no bfloat16: nothing is fast")
def test_linear_layers_are_bfloat16_where_calibration_computes(merged, tmp_path, monkeypatch):
    """The passes inside both libraries are fast, and the Hessian is not rounded."""
    from services.quantiser.adapters import autoawq, compression  # seconds, which other workers need not spend

    kinds = set()

    class Watched(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func in (torch.nn.functional.linear, torch.Tensor.matmul, torch.Tensor.cholesky):
                kinds.add((func.__name__, args[0].dtype))
            return func(*args, **(kwargs or {}))

    for module, variant in ((compression, "int8"), (autoawq, "awq-int4")):
        kinds.clear()
        original = module.linear_layers

        @contextmanager
        def watched(precision, exact=(), original=original):
            with Watched(), original(precision, exact):
                yield

        monkeypatch.setattr(module, "linear_layers", watched)
        job = order(merged, tmp_path / variant, variant)
        job.output.mkdir(parents=True)
        quantise_worker.make_weights(job, _tokenizer(merged))
        assert ("linear", torch.bfloat16) in kinds, variant
        assert not {call for call in kinds if call[0] != "linear" and call[1] != torch.float32}, variant


def _tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


MEASURE = """
import json, os, sys
from services.quantiser.adapters import evaluation, quantise_worker
from services.quantiser.ports import QuantisationJob
from shared.runtime import jobs
from transformers import AutoTokenizer

order, sets = QuantisationJob.model_validate_json(sys.argv[1]), sys.argv[2].split(",")
tokenizer = AutoTokenizer.from_pretrained(order.merged)
reference, variant = evaluation.load_narrow(order.merged), evaluation.load_compressed(order.output)
evaluation.load_narrow = lambda _folder: reference
evaluation.load_variant = lambda *_: variant
jobs._say = lambda _message: None
for name in sets:  # oneDNN reads the variable at its first product: none was computed before the fork
    sys.stdout.flush()
    if os.fork() == 0:
        os.environ |= {"ONEDNN_MAX_CPU_ISA": name, "ONEDNN_VERBOSE": "1"}
        print("SET", name, flush=True)
        quality, _, _, measurement = quantise_worker.measure(order, tokenizer)
        print("MEASURED", json.dumps([name, quality.model_dump(), measurement.model_dump()]), flush=True)
        os._exit(0)
    _, status = os.wait()
    assert status == 0, (name, status)
"""


def assert_obeyed(lines):
    """Assert that oneDNN itself said, of each instruction set with which it was used, that it kept to it."""
    used, name = {}, ""
    for line in lines:
        if line.startswith("SET "):
            name = line.removeprefix("SET ")
        elif ",cpu,isa:" in line:
            used[name] = "AMX" in line
    assert used == {name: "AMX" in name for name in used}
    assert WITH_BFLOAT16 & set(AVAILABLE) <= set(used), "products of bfloat16 are oneDNN's"


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.skipif(not AVAILABLE, reason="oneDNN's instruction sets are those of x86")
def test_every_instruction_set_of_this_cpu_measures_the_same(merged, tmp_path):
    """To 0.5 %, the tolerance of a measurement's check of itself."""
    job = order(merged, tmp_path, "gptq-int4")
    quantise_worker.quantise(job)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, job.model_dump_json(), ",".join(AVAILABLE)],
        cwd=ROOT,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_obeyed(done.stdout.splitlines())
    lines = [line.removeprefix("MEASURED ") for line in done.stdout.splitlines() if line.startswith("MEASURED ")]
    measured = {name: (quality, measurement) for name, quality, measurement in map(json.loads, lines)}
    print({name: (q["perplexity"], q["mean_kl"], m["precision"]) for name, (q, m) in measured.items()})
    assert list(measured) == AVAILABLE
    for name, (_, measurement) in measured.items():
        assert measurement["processor"]["instruction_set"] == name
        assert measurement["processor"]["amx"] == ("AMX" in name)
        assert measurement["processor"]["threads"] == 1
        if name in WITH_BFLOAT16:
            agreed = measurement["check"]["verdict"] == "agreed"
            assert measurement["precision"] == ("bfloat16" if agreed else "float32"), measurement["check"]["reason"]
        else:
            assert (measurement["precision"], measurement["check"]) == ("float32", None)
    plain, _ = measured[AVAILABLE[-1]]
    for name, (quality, _) in measured.items():
        for figure in ("perplexity", "reference_perplexity", "perplexity_ratio"):
            assert quality[figure] == pytest.approx(plain[figure], rel=0.005), (name, figure)
        assert quality["mean_kl"] == pytest.approx(plain["mean_kl"], rel=0.005), name


@pytest.mark.parametrize(("variant", "tolerance"), [("int8", rule.TOLERANCE), ("gptq-int4", -1.0)])
def test_where_bfloat16_would_move_the_figures_all_are_of_float32(merged, tmp_path, monkeypatch, variant, tolerance):
    """From the start where activations are quantised; else once the check of a window has differed."""
    monkeypatch.setattr(rule, "TOLERANCE", tolerance)
    made = quantise_worker.quantise(order(merged, tmp_path, variant))
    measurement = made.measurement
    assert measurement.processor == processor.this_processor()
    assert measurement.precision == "float32"
    checked = variant != "int8" and measurement.processor.instruction_set in WITH_BFLOAT16
    assert (measurement.check and measurement.check.verdict) == ("differed" if checked else None)
    reference, candidate = evaluation.load_reference(merged), evaluation.load_compressed(tmp_path / "output")
    windows = [list(window.token_ids) for window in made.held_out]
    quality, _ = evaluation.measure_quality(reference, candidate, windows, lambda *_: None, "float32")
    assert quality == made.quality
