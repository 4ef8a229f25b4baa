"""The child process that quantises: `python -m services.quantiser.adapters.quantise_worker JOB_FILE`.

Standard output carries JSON lines of `worker_protocol` and nothing else; what libraries print goes to standard
error. The service that starts it sees to it that it dies with its parent.
"""

import gc
import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

from services.quantiser.adapters.packaged_text import packaged_split
from services.quantiser.adapters.worker_protocol import Done, Failed, Job, Progress
from services.quantiser.domain import spread_windows

COPIED_SUFFIXES = (".json", ".jinja", ".model", ".txt")
WRITTEN_BY_ENGINE = ("config.json", "model.safetensors.index.json")
_OUT_OF_MEMORY_PHRASES = ("can't allocate memory", "out of memory", "not enough memory", "Cannot allocate memory")


class Reporter:
    """Writes protocol lines to what was standard output."""

    def __init__(self, descriptor: int) -> None:
        self._out = os.fdopen(descriptor, "w", buffering=1, encoding="utf-8")

    def say(self, line: Progress | Done | Failed) -> None:
        """Write one line."""
        self._out.write(line.model_dump_json() + "\n")
        self._out.flush()


def main(job_file: str) -> int:
    """Do one job; the exit status is 0 when it is done, 3 when it cannot be done (the last line says why)."""
    job = Job.model_validate_json(Path(job_file).read_bytes())
    volunteer_for_the_kernel()
    reporter = Reporter(os.dup(sys.stdout.fileno()))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    outcome = attempt(job, reporter)
    reporter.say(outcome)
    return 0 if isinstance(outcome, Done) else 3


def volunteer_for_the_kernel() -> None:
    """Tell the kernel to end this process, not the service or its neighbours, when the machine's memory runs out."""
    Path("/proc/self/oom_score_adj").write_text("1000")


def attempt(job: Job, reporter: Reporter) -> Done | Failed:
    """Do the work and put a name to what can go wrong; anything else ends this process with a traceback."""
    from services.quantiser.adapters.calibration_set import CalibrationTooSmallError
    from services.quantiser.adapters.evaluation import NotFiniteError

    try:
        return work(job, reporter)
    except CalibrationTooSmallError as error:
        return Failed(code="calibration_too_small", reason=str(error))
    except NotFiniteError as error:
        return Failed(code="engine_failed", reason=f"{error} The variant is of no use.")
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(text in str(error) for text in _OUT_OF_MEMORY_PHRASES):
            raise
        reason = f"Memory ran out at {peak_rss_bytes()} bytes in use: {str(error)[:300] or 'no allocation possible'}"
        return Failed(code="out_of_memory", reason=reason)


def work(job: Job, reporter: Reporter) -> Done:
    """Quantise, write the whole output folder, and measure what was written."""
    tune_libraries(job.threads)
    from transformers import AutoTokenizer

    job.output.mkdir(parents=True, exist_ok=True)
    reporter.say(Progress(step="load", done=0, total=1, unit="model"))
    tokenizer = AutoTokenizer.from_pretrained(job.merged)
    tokens = make_weights(job, tokenizer, reporter)
    copy_companions(job.merged, job.output)
    gc.collect()
    quality = measure(job, tokenizer, reporter)
    return Done(quality=quality, calibration_tokens=tokens, peak_rss_bytes=peak_rss_bytes())


def tune_libraries(threads: int | None) -> None:
    """Set what makes torch fast enough on a CPU: fp32 weights with bf16 multiplication inside."""
    import torch

    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    torch.manual_seed(0)
    if threads is not None:
        torch.set_num_threads(threads)


def make_weights(job: Job, tokenizer: Any, reporter: Reporter) -> int:
    """Write weights and configuration; give the number of calibration tokens used."""
    plan = job.plan
    if plan.engine == "cast":
        from services.quantiser.adapters.casting import cast_folder

        def on_shard(done: int, total: int) -> None:
            reporter.say(Progress(step="cast", done=done, total=total, unit="file"))

        cast_folder(job.merged, job.output, plan.dtype, on_shard)
        return 0
    from services.quantiser.adapters.calibration_set import calibration_windows
    from services.quantiser.adapters.compression import compress

    def on_layer(step: str, done: int) -> None:
        reporter.say(Progress(step=step, done=min(done, plan.layers), total=plan.layers, unit="layer"))

    windows = calibration_windows(plan.calibration, tokenizer, job.calibration) if plan.calibration else None
    compress(plan, job.merged, job.output, windows, on_layer)
    return sum(len(window) for window in windows or ())


def copy_companions(merged: Path, output: Path) -> None:
    """Copy tokenizer, chat template and generation settings byte by byte; never what the engine wrote itself."""
    for source in sorted(merged.iterdir()):
        if source.is_file() and source.suffix in COPIED_SUFFIXES and source.name not in WRITTEN_BY_ENGINE:
            shutil.copyfile(source, output / source.name)


def measure(job: Job, tokenizer: Any, reporter: Reporter) -> Any:
    """Measure the written folder against the merged model on the packaged held-out text."""
    from services.quantiser.adapters.evaluation import load_compressed, load_reference, measure_quality

    text = "\n\n".join(packaged_split().held_out)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    windows = spread_windows(ids, length=job.plan.held_out.tokens, count=job.plan.held_out.windows)
    load = load_compressed if job.plan.engine == "llmcompressor" else load_reference

    def on_window(done: int) -> None:
        reporter.say(Progress(step="evaluate", done=done, total=len(windows), unit="window"))

    return measure_quality(load_reference(job.merged), load(job.output), windows, on_window)


def peak_rss_bytes() -> int:
    """Give the most memory that this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
