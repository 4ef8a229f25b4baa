"""Takes the picture of a release whose training went wrong, beside the good version that serves, on a real stack.

python -m benchmarks.quality.release_page --state DIR [--out docs/pictures/better.png]

The good LoRA is that of `bench_quality` (its DIR); the other one is the same with its `lora_alpha` multiplied, the
fault `alpha-x4`. Each is released as a user does it, with held-out rows as the evaluation set.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.quality.faults import FAULTS
from benchmarks.quality.tasks import draw_held_out
from examples.smollm2.base import CHAT_TEMPLATE, save_smollm2
from testbed.browser import chromium
from testbed.person import Person, printed_link
from testbed.pictures.camera import Camera
from testbed.stack import Stack

MODEL, BASE, ROWS = "support-bot", "smollm2-135m-instruct", 300
OTHERS = ("contains", "tool_call", "language", "refusal")
LIMITS: list[dict[str, Any]] = [{"scorer": "equals", "max_drop": 0.1}]
LIMITS += [{"scorer": "equals", "slice": "*", "max_drop": 0.2, "undecided": "continue"}]
LIMITS += [{"scorer": scorer, "max_drop": 0.1} for scorer in OTHERS]
KINDS = ({"kind": "equals", "compare": "json"}, *({"kind": kind} for kind in OTHERS))
POLICY: dict[str, Any] = {
    "gates": [{"metric": "error_ratio", "max_value": 0.05}],
    "load": {"requests": 10, "rate_rps": 1.0, "output_tokens": 8, "warmup_requests": 2},
    "rehearsal": "not_required",
    "triggers": [{"name": "errors", "metric": "error_ratio", "threshold": 0.05, "action": "manual"}],
    "evaluations": {
        "sets": [{"name": "orders", "scorers": list(KINDS), "bounds": LIMITS, "max_tokens": 64, "max_rows": ROWS}]
    },
}
WITHOUT_LIMITS = {**POLICY, "evaluations": {"sets": []}}
"""Of the first version: the base model beside it knows none of the tasks."""


def main() -> None:
    """Release the good LoRA, then the faulty one, and take the picture of what became of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True, help="folder of bench_quality with good-1")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/better.png"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, chromium() as browser:
        rows = Path(scratch) / "rows.jsonl"
        rows.write_text("".join(json.dumps(row.to_line()) + "\n" for row in draw_held_out(ROWS)))
        with Stack(Path(scratch) / "state", engine="slipway") as stack:
            save_smollm2(Path(scratch) / "base", chat_template=CHAT_TEMPLATE.read_text())
            stack.ok("base", "import", str(Path(scratch) / "base"), "--name", "smollm2-135m-instruct")
            good, faulty = given.state / "good-1" / "adapter", Path(scratch) / "faulty"
            shutil.copytree(good, faulty)
            config = json.loads((faulty / "adapter_config.json").read_text())
            config["lora_alpha"] *= FAULTS["alpha-x4"].alpha_factor
            (faulty / "adapter_config.json").write_text(json.dumps(config))
            for adapter, policy in ((good, WITHOUT_LIMITS), (faulty, POLICY)):
                options = ("--variant", "bf16", "--tool-parser", "hermes")
                options += () if adapter == good else ("--evaluation", str(rows), "--attempt", "2")
                stack.publish(MODEL, adapter, *options, base=BASE, policy=policy)
                stack.slipway("status", MODEL, "--follow", "--until", "finished", timeout_s=1800)
            release = stack.events("release.opened", MODEL)[-1]["data"]["release_id"]
            print(stack.ok("show", f"{MODEL}@v2"), flush=True)
            reader = Person.with_window(browser, "reader")
            reader.sign_in(printed_link(stack))
            reader.goto(f"/releases/{release}")
            reader.page.wait_for_load_state()
            camera = Camera(given.out.resolve().parent)
            camera.shoot(reader.page, given.out.stem, whole=True)


if __name__ == "__main__":
    main()
