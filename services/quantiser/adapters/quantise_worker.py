"""The child process that quantises: `python -m services.quantiser.adapters.quantise_worker ORDER`.

It uses `shared.runtime.jobs`: JSON lines of progress, then a result or an error. The service that starts it ensures
that it dies with its parent; torch and the quantising libraries are imported here and nowhere else.
"""

import gc
import resource
import shutil
from pathlib import Path
from typing import Any

from contracts.facts import Measurement, Quality
from contracts.manifests import HeldOutWindow
from services.quantiser.adapters.packaged_text import packaged_split
from services.quantiser.domain import choose_precision, spread_windows, windows_to_judge
from services.quantiser.ports import Made, Order
from shared.errors import Permanent
from shared.runtime.jobs import job_main, report_progress

COPIED_SUFFIXES = (".json", ".jinja", ".model", ".txt")
WRITTEN_BY_ENGINE = ("config.json", "model.safetensors.index.json")


def work(arguments: list[str]) -> dict[str, Any]:
    """Do one order and give its result.

    Raises:
        Permanent: The variant cannot be made, and a retry would end the same way.
    """
    order = Order.model_validate_json(arguments[0])
    volunteer_for_the_kernel()
    return quantise(order).model_dump(mode="json")


def volunteer_for_the_kernel() -> None:
    """Tell the kernel to end this process, not the service or its neighbours, when the machine's memory runs out."""
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def quantise(order: Order) -> Made:
    """Write the whole output folder unless it is written already, and measure what was written."""
    report_progress(step="load", done=0, total=1, unit="model")
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same result in every run
        return make_and_measure(order)


def make_and_measure(order: Order) -> Made:
    """Do the work of `quantise`, with torch's random numbers as they are."""
    from transformers import AutoTokenizer

    order.output.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(order.merged)
    report_progress(step="load", done=1, total=1, unit="model")
    calibration_tokens = 0
    if not order.measure_again:
        calibration_tokens = make_weights(order, tokenizer)
        if order.output != order.merged:
            copy_companions(order.merged, order.output)
    gc.collect()
    quality, held_out, own, measurement = measure(order, tokenizer)
    return Made(
        quality=quality,
        held_out=held_out,
        evaluation_quality=own,
        measurement=measurement,
        calibration_tokens=calibration_tokens,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def make_weights(order: Order, tokenizer: Any) -> int:
    """Write weights and configuration; give the number of calibration tokens used."""
    plan = order.plan
    if plan.engine == "pass-through":
        return 0
    if plan.engine == "cast":
        from services.quantiser.adapters.casting import cast_folder

        cast_folder(order.merged, order.output, plan.dtype, teller("cast", "files"))
        return 0
    from services.quantiser.adapters.calibration_set import calibration_windows, read_records

    def on_layer(step: str, done: int) -> None:
        report_progress(step=step, done=min(done, plan.layers), total=plan.layers, unit="layers")

    windows = None
    if plan.calibration is not None:
        apart, _ = read_records(order.evaluation)
        windows = calibration_windows(plan.calibration, tokenizer, order.calibration, apart)
    if plan.engine == "autoawq" and windows is not None:
        from services.quantiser.adapters.autoawq import quantise_awq

        quantise_awq(plan, order.merged, order.output, windows, lambda done: on_layer("quantise", done))
    else:
        from services.quantiser.adapters.compression import compress

        compress(plan, order.merged, order.output, windows, on_layer)
    return sum(len(window) for window in windows or ())


def copy_companions(merged: Path, output: Path) -> None:
    """Copy tokenizer, chat template and generation settings byte by byte; never what the engine wrote itself."""
    for source in sorted(merged.iterdir()):
        if source.is_file() and source.suffix in COPIED_SUFFIXES and source.name not in WRITTEN_BY_ENGINE:
            shutil.copyfile(source, output / source.name)


def measure(order: Order, tokenizer: Any) -> tuple[Quality, tuple[HeldOutWindow, ...], Quality | None, Measurement]:
    """Measure the written folder against the merged model: on the packaged held-out text, and on its own set.

    The windows of the former are given with what they cost, so that a serving engine can be held against them.

    The own set gets half as many windows, being the second opinion, but as many as a verdict needs. Where the fast
    precision does not give the figures of float32 on the longest window of both, all of it is measured in float32.
    """
    from services.quantiser.adapters import evaluation
    from services.quantiser.adapters.calibration_set import read_records, render
    from services.quantiser.adapters.processor import this_processor

    ids = tokenizer("\n\n".join(packaged_split().held_out), add_special_tokens=False)["input_ids"]
    own_text = "\n\n".join(render(read_records(order.evaluation)[0], tokenizer))
    own_ids = tokenizer(own_text, add_special_tokens=False)["input_ids"]
    plan = order.plan
    reference = evaluation.load_reference(order.merged)
    unchanged = order.output == order.merged
    variant = reference if unchanged else evaluation.load_variant(order.output, plan.engine, plan.dtype)
    # One token less than the context: to score a window, a serving engine must generate one after it.
    length = min(plan.held_out.tokens, getattr(reference.config, "max_position_embeddings", 2**31) - 1)
    windows = spread_windows(ids, length=length, count=plan.held_out.windows)
    own_count = max(plan.held_out.windows // 2, windows_to_judge(length))
    own = spread_windows(own_ids, length=length, count=own_count, with_rest=True)
    processor = this_processor()
    precision, check = "float32" if order.measure_again else choose_precision(processor), None

    def figures(of: list[list[int]], step: str) -> tuple[Quality, tuple[HeldOutWindow, ...]]:
        found: tuple[Quality, tuple[HeldOutWindow, ...]]
        found = evaluation.measure_quality(reference, variant, of, teller(step, "windows"), precision)
        return found

    try:
        if precision != "float32":
            report_progress(step="check precision", done=0, total=1, unit="windows")
            check = evaluation.check_precision(reference, variant, [*windows, *own])
            precision = "float32" if check.verdict == "differed" else precision
        quality, held_out = figures(windows, "evaluate")
        own_quality = figures(own, "evaluate own set")[0] if own else None
        return quality, held_out, own_quality, Measurement(precision=precision, processor=processor, check=check)
    except evaluation.NotFiniteError as error:
        raise Permanent("engine_failed", f"{error} The variant is of no use.") from error


def teller(step: str, unit: str) -> Any:
    """Return a function that reports the progress of a step."""
    return lambda done, total: report_progress(step=step, done=done, total=total, unit=unit)


if __name__ == "__main__":
    job_main(work)
