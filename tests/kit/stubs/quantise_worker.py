"""Run a job without computing: the output is the merged model, and its quality is made up."""

import shutil
import time

from contracts.facts import Quality
from services.quantiser.ports import QuantisationJob, QuantisationResult
from shared.runtime.worker import job_main, report_progress

WORK_S = 1.0
"""Long enough to be found at work, and killed."""
QUALITY = Quality(
    perplexity_ratio=1.01,
    mean_kl=0.01,
    p99_kl=0.1,
    top1_agreement_ratio=0.95,
    tokens=1275,
    perplexity=20.2,
    reference_perplexity=20.0,
)


def work(arguments: list[str]) -> dict:
    """Pretend to make a variant."""
    job = QuantisationJob.model_validate_json(arguments[0])
    report_progress(step="load", done=0, total=1, unit="model")
    time.sleep(WORK_S)
    if job.output != job.merged:
        shutil.copytree(job.merged, job.output, dirs_exist_ok=True)
    report_progress(step="load", done=1, total=1, unit="model")
    return QuantisationResult(quality=QUALITY, calibration_tokens=0, peak_rss_bytes=1).model_dump(mode="json")


if __name__ == "__main__":
    job_main(work)
