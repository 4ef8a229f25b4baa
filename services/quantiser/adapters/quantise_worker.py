"""The worker process: `python -m services.quantiser.adapters.quantise_worker JOB`, with the job as JSON.

It reports progress through `shared.runtime.worker`, and alone imports torch and the quantisation libraries.
"""

import gc
import resource
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from contracts.facts import Quality
from contracts.manifests import HeldOutWindow
from services.quantiser.adapters.packaged_text import packaged_split
from services.quantiser.domain import spread_windows, windows_needed
from services.quantiser.ports import QuantisationJob, QuantisationResult
from shared.errors import Permanent
from shared.runtime.worker import confine, importing, job_main, report_progress, step_progress

COPIED_SUFFIXES = (".json", ".jinja", ".model", ".txt")
WRITTEN_BY_ENGINE = ("config.json", "model.safetensors.index.json")


def work(arguments: list[str]) -> dict[str, Any]:
    """Run a job; return its result as JSON data.

    Raises:
        Permanent: The variant cannot be made, and a retry would fail too.
    """
    job = QuantisationJob.model_validate_json(arguments[0])
    prefer_for_oom_kill()
    inputs = [job.merged, *filter(None, (job.calibration, job.evaluation))]
    job.output.mkdir(parents=True, exist_ok=True)
    confine(inputs, [temporary_folder(job), *([] if job.output == job.merged else [job.output])])
    return quantise(job).model_dump(mode="json")


def temporary_folder(job: QuantisationJob) -> Path:
    """Return the folder for temporary files beside the output; create it if missing."""
    folder = job.output.with_name("temporary")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def prefer_for_oom_kill() -> None:
    """Make the kernel kill this process first when memory runs out."""
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def quantise(job: QuantisationJob) -> QuantisationResult:
    """Write the output folder, measure it, and return the result."""
    report_progress(step="load", done=0, total=1, unit="model")
    with importing():
        import torch

        from services.quantiser.adapters import evaluation  # noqa: F401 - and with it the model classes of transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # for reproducible results
        return make_and_measure(job)


def make_and_measure(job: QuantisationJob) -> QuantisationResult:
    """Return the result of `quantise`; the caller seeds torch."""
    from transformers import AutoTokenizer

    job.output.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(job.merged)
    report_progress(step="load", done=1, total=1, unit="model")
    calibration_tokens = make_weights(job, tokenizer)
    if job.output != job.merged:
        copy_small_files(job.merged, job.output)
    gc.collect()
    quality, held_out, evaluation_quality = measure(job, tokenizer)
    return QuantisationResult(
        quality=quality,
        held_out=held_out,
        evaluation_quality=evaluation_quality,
        calibration_tokens=calibration_tokens,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def make_weights(job: QuantisationJob, tokenizer: Any) -> int:
    """Write weights and configuration; return the number of calibration tokens used."""
    plan = job.plan
    if plan.engine == "pass-through":
        return 0
    if plan.engine == "cast":
        from services.quantiser.adapters.casting import cast_folder

        cast_folder(job.merged, job.output, plan.dtype, step_progress("cast", "files"))
        return 0
    from services.quantiser.adapters.calibration_set import calibration_windows, read_records

    def on_layer(step: str, done: int) -> None:
        report_progress(step=step, done=min(done, plan.layers), total=plan.layers, unit="layers")

    windows = None
    if plan.calibration is not None:
        evaluation, _ = read_records(job.evaluation)
        windows = calibration_windows(plan.calibration, tokenizer, job.calibration, evaluation)
    if plan.engine == "autoawq" and windows is not None:
        with importing():
            from services.quantiser.adapters.autoawq import quantise_awq

        quantise_awq(plan, job.merged, job.output, windows, lambda done: on_layer("quantise", done))
    else:
        with importing():
            from services.quantiser.adapters.compression import compress

        compress(plan, job.merged, job.output, windows, on_layer)
    return sum(len(window) for window in windows or ())


def copy_small_files(merged: Path, output: Path) -> None:
    """Copy tokenizer, chat template and generation settings byte by byte, but no file that the engine wrote."""
    for source in sorted(merged.iterdir()):
        if source.is_file() and source.suffix in COPIED_SUFFIXES and source.name not in WRITTEN_BY_ENGINE:
            shutil.copyfile(source, output / source.name)


def measure(job: QuantisationJob, tokenizer: Any) -> tuple[Quality, tuple[HeldOutWindow, ...], Quality | None]:
    """Measure the written folder against the merged model, on packaged held-out text and on the evaluation set.

    The held-out windows and their negative log-likelihoods are returned for comparison with a serving engine. The
    evaluation set gets half as many windows, but at least as many as a verdict needs.

    Returns:
        Quality on held-out text, its windows, and quality on the evaluation set; None without one.

    Raises:
        Permanent: `engine_failed` if logits are not finite.
    """
    from transformers import AutoConfig

    from services.quantiser.adapters import evaluation
    from services.quantiser.adapters.calibration_set import read_records, render
    from services.quantiser.adapters.stored_scores import StoredScores

    ids = tokenizer("\n\n".join(packaged_split().held_out), add_special_tokens=False)["input_ids"]
    evaluation_text = "\n\n".join(render(read_records(job.evaluation)[0], tokenizer))
    evaluation_ids = tokenizer(evaluation_text, add_special_tokens=False)["input_ids"]
    plan = job.plan
    config = AutoConfig.from_pretrained(job.merged)
    # One token below the context: a serving engine must generate one token to score a window.
    length = min(plan.held_out.tokens, getattr(config, "max_position_embeddings", 2**31) - 1)
    windows = spread_windows(ids, length=length, count=plan.held_out.windows)
    count = max(plan.held_out.windows // 2, windows_needed(length))
    own_windows = spread_windows(evaluation_ids, length=length, count=count, with_rest=True)
    scratch = Path(tempfile.mkdtemp(dir=temporary_folder(job), prefix="scores-"))
    reference = StoredScores(scratch / "merged", partial(evaluation.load_narrow, job.merged))

    def measure_on(token_ids: list[list[int]], step: str) -> tuple[Quality, tuple[HeldOutWindow, ...]]:
        result: tuple[Quality, tuple[HeldOutWindow, ...]]
        result = evaluation.measure_quality(reference, variant, token_ids, step_progress(step, "windows"))
        return result

    try:
        reference.compute([*windows, *own_windows], step_progress("evaluate merged model", "windows"))
        unchanged = job.output == job.merged
        variant = reference if unchanged else evaluation.load_variant(job.output, plan.engine, plan.dtype)
        quality, held_out = measure_on(windows, "evaluate")
        own_quality = measure_on(own_windows, "evaluate own set")[0] if own_windows else None
    except evaluation.NotFiniteError as error:
        raise Permanent("engine_failed", f"{error} The variant is not usable.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return quality, held_out, own_quality


if __name__ == "__main__":
    job_main(work)
