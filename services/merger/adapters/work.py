"""The child process: `python -m services.merger.adapters.work merge|verify ORDER`.

Every check that does not need torch comes before torch is imported.
"""

import json
import resource
from pathlib import Path
from typing import Any

from contracts.facts import BaseModelRef
from services.merger import domain
from services.merger.adapters.safetensors_header import read_folder
from services.merger.ports import MergeOrder
from shared.errors import Permanent
from shared.jobs import job_main, report_progress


def work(arguments: list[str]) -> dict[str, Any]:
    """Do one task and give its result, with the peak memory of this process."""
    task, order = arguments[0], parse_order(arguments[1])
    result = merge(order) if task == "merge" else verify(order)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**result, "peak_rss_bytes": peak}


def parse_order(text: str) -> MergeOrder:
    """Read what the parent wants."""
    fields = json.loads(text)
    paths = {name: Path(fields[name]) for name in ("base", "checkpoint", "out", "stored")}
    return MergeOrder(
        kind=fields["kind"], dtype=fields["dtype"], base_ref=BaseModelRef.model_validate(fields["base_ref"]), **paths
    )


def refuse(refusal: domain.Refusal | None) -> None:
    """Raise the error that the parent turns into a rejection."""
    if refusal is not None:
        raise Permanent(refusal.code, refusal.reason, **refusal.details)


def tell(step: str, unit: str) -> Any:
    """Give a function that reports the progress of a step."""
    return lambda done, total: report_progress(step=step, done=done, total=total, unit=unit)


def merge(order: MergeOrder) -> dict[str, Any]:
    """Check everything, then write the merged model."""
    base, checkpoint = read_folder(order.base), read_folder(order.checkpoint)
    refuse(domain.assess_files(order.kind, checkpoint.sizes))
    refuse(domain.assess_weights_files(checkpoint.weights))
    refuse(domain.assess_weights_files(base.weights))
    refuse(domain.assess_base(base))
    if base.config is None or checkpoint.config is None:
        raise Permanent("truncated_weights", "A configuration file of the base or the checkpoint is no JSON object.")
    if order.kind == "lora":
        refuse(domain.assess_adapter_config(checkpoint.config, order.base_ref))
    else:
        refuse(domain.assess_full_config(checkpoint.config, base.config))
        refuse(domain.assess_full_tensors(checkpoint.tensors, base.tensors))

    from services.merger.adapters import torch_checks, torch_merge

    step = torch_checks.check_lora if order.kind == "lora" else torch_checks.check_full
    step(order, base, checkpoint, refuse, tell("check", "tensors"))
    torch_merge.write(order, base if order.kind == "lora" else checkpoint, tell("merge", "tensors"))
    return {}


def verify(order: MergeOrder) -> dict[str, Any]:
    """Compare the stored model with what it was made of."""
    from services.merger.adapters import parity

    reference, adapter = (order.base, order.checkpoint) if order.kind == "lora" else (order.checkpoint, None)
    try:
        measured = parity.measure_parity(reference, adapter, order.stored, tell("verify", "models"))
    except ArithmeticError as error:
        raise Permanent("parity_failed", f"Parity cannot be measured: {error}.") from error
    return {
        "parity": measured.model_dump(),
        "rendered_prompt_digest": parity.rendered_prompt_digest(order.stored),
        "base_rendered_prompt_digest": parity.rendered_prompt_digest(order.base),
    }


if __name__ == "__main__":
    job_main(work)
