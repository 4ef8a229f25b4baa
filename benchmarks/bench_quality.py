"""Is a new fine-tune worse? LoRAs of SmolLM2-135M that do three tasks well, and LoRAs whose training went wrong.

    python -m benchmarks.bench_quality                      # the table, of the rows of scores that are committed
    python -m benchmarks.bench_quality --state DIR --minutes 60 [--only RUN ...]   # first make what is missing; goes on

Bad is measured, not named: on 1,000 held-out rows a model's score of a task, or of a slice, is below that of the good
LoRA that serves by more than `MAX_DROP`, by the lower end of an interval whose error of 2.5 % is split over tasks and
slices. Each rule then sees at most 200 rows of each task in random order, 1,000 times.
"""

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from time import monotonic

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.parts import show_table
from benchmarks.quality.faults import runs
from benchmarks.quality.tasks import TASKS, Row, draw_held_out
from decisions.evaluations.limit_tests import Decision, plan_test
from deploy.local.supervisor import default_engine_root
from examples.smollm2.base import save_smollm2

ROWS, ASKED, DRAWS = 1_000, 200, 1_000
MAX_DROP = 0.05
ALPHA, BETA = 0.02, 0.05
HERE = Path(__file__).parent / "quality"
SCORES = HERE / "rows"
ACTIVE = "good-1"
Figures = Mapping[str, "np.ndarray[tuple[int], np.dtype[np.float64]]"]
Blocks = Callable[[Figures, Figures], bool]


@dataclass(frozen=True)
class Model:
    """The scores of a run: by task, 1.0 or 0.0 for each row of the task, in the order of the held-out rows."""

    name: str
    fault: str
    scores: Figures


def make_missing(state: Path, minutes: float, wanted: Sequence[str]) -> None:
    """Make the rows of wanted runs that have none yet, one after the other, until the time is over."""
    base, rows_file = state / "base", state / "rows.jsonl"
    if not (base / "config.json").exists():
        shutil.rmtree(base, ignore_errors=True)
        save_smollm2(base)
    rows = draw_held_out(ROWS)
    rows_file.write_text("".join(json.dumps(row.to_line()) + "\n" for row in rows), encoding="utf-8")
    ends_at = monotonic() + minutes * 60
    missing = [name for name in wanted if not (SCORES / f"{name}.json").exists()]
    for place, name in enumerate(missing):
        if monotonic() > ends_at:
            print(f"{len(missing) - place} of {len(wanted)} runs are left; the same command goes on with them")
            return
        print(f"{name} ({place + 1} of {len(missing)} that are missing)", flush=True)
        folder, answers = state / name, state / name / "answers.jsonl"
        training = [sys.executable, "-m", "benchmarks.quality.training", "--base", str(base), "--run", name]
        subprocess.run([*training, "--out", str(state)], check=True, cwd=HERE.parents[1])
        engine = [str(default_engine_root() / "bin/python"), str(HERE / "answering.py")]
        subprocess.run([*engine, str(folder / "merged"), str(rows_file), str(answers)], check=True)
        shutil.rmtree(folder / "merged")
        write_scores(name, rows, [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()])


def write_scores(name: str, rows: Sequence[Row], answers: Sequence[Mapping[str, str]]) -> None:
    """Write a character a row and task: 1 right, 0 wrong, x cannot be parsed."""
    from benchmarks.quality.scoring import score

    marks: dict[str, str] = dict.fromkeys(TASKS, "")
    for row, answer in zip(rows, answers, strict=True):
        marks[row.task] += score(row, answer["text"], ended=answer["end"] == "stop")
    fault, seed = runs()[name]
    SCORES.mkdir(exist_ok=True)
    record = {"fault": fault, "seed": seed, "scores": marks}
    (SCORES / f"{name}.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    print(f"{name}: " + ", ".join(f"{task} {text.count('1') / len(text):.0%}" for task, text in marks.items()))


def read_models() -> list[Model]:
    """Return the models whose rows are there, in the order of the runs."""
    models = []
    for name in runs():
        if not (SCORES / f"{name}.json").exists():
            continue
        record = json.loads((SCORES / f"{name}.json").read_text())
        figures = {task: np.array([mark == "1" for mark in text], float) for task, text in record["scores"].items()}
        models.append(Model(name, record["fault"], figures))
    return models


def slices() -> dict[str, dict[str, list[int]]]:
    """Return the places of each slice of each task, among the rows of the task; the whole task is the slice ``""``."""
    places: dict[str, dict[str, list[int]]] = {task: {"": []} for task in TASKS}
    for row in draw_held_out(ROWS):
        of = places[row.task]
        place = len(of[""])
        of[""].append(place)
        of.setdefault(row.slice, []).append(place)
    return places


def measured_drop(
    model: Model, active: Model, places: Mapping[str, Mapping[str, list[int]]]
) -> tuple[float, float, str]:
    """Return the greatest fall of a task or slice, the lower end of its interval, and which it is."""
    worst = (-1.0, -1.0, "")
    spread = NormalDist().inv_cdf(1.0 - 0.025 / sum(map(len, places.values())))
    for task, of in places.items():
        for name, rows in of.items():
            falls = active.scores[task][rows] - model.scores[task][rows]
            low = float(falls.mean() - spread * falls.std() / math.sqrt(len(rows)))
            worst = max(worst, (low, float(falls.mean()), f"{task} {name}".strip()))
    return worst[1], worst[0], worst[2]


def by_evaluation(model: Figures, active: Figures) -> bool:
    """Return whether Slipway's rule stops a release that may lose `MAX_DROP` of each task: missed, or not shown."""
    return any(decide(model[task], active[task], len(TASKS)) != "met" for task in TASKS)


def is_missed(model: Figures, active: Figures) -> bool:
    """Return whether Slipway's rule shows that a limit is missed."""
    return any(decide(model[task], active[task], len(TASKS)) == "missed" for task in TASKS)


def decide(
    candidate: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    active: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    limits: int,
) -> Decision:
    """Return what rows show about one limit, row by row."""
    test = plan_test((1.0 - MAX_DROP) / 2.0, alpha=ALPHA / limits, beta=BETA, rows=len(candidate))
    for one, other in zip(candidate, active, strict=True):
        test = test.observe((1.0 + one - other) / 2.0)
        if test.decision != "undecided":
            break
    return test.decision


def by_means(model: Figures, active: Figures) -> bool:
    """Return whether a script around lm-eval stops it: the mean of a task is below the other one's by `MAX_DROP`."""
    return any(active[task].mean() - model[task].mean() > MAX_DROP for task in TASKS)


def by_threshold(model: Figures, active: Figures) -> bool:
    """Return whether MLflow's thresholds do: `min_absolute_change` of -`MAX_DROP`, and a value of at least 80 %."""
    return by_means(model, active) or any(model[task].mean() < 0.80 for task in TASKS)


RULES: Mapping[str, Blocks] = {
    "Slipway stops": by_evaluation,
    "Slipway, shown": is_missed,
    "means (lm-eval)": by_means,
    "thresholds (MLflow)": by_threshold,
}


def share_blocked(rule: Blocks, model: Model, active: Model, draws: int) -> float:
    """Return in what share of draws of `ASKED` rows a rule blocks a model."""
    choice, blocked = random.Random(5), 0
    for _ in range(draws):
        one: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
        other: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
        for task in TASKS:
            rows = choice.sample(range(len(model.scores[task])), min(ASKED, len(model.scores[task])))
            one[task], other[task] = model.scores[task][rows], active.scores[task][rows]
        blocked += rule(one, other)
    return blocked / draws


def show(draws: int) -> None:
    """Print the table of all models whose rows are there."""
    models, places = read_models(), slices()
    active = next((model for model in models if model.name == ACTIVE), None)
    if active is None:
        print(f"There are no rows of {ACTIVE} yet; --state DIR makes them.")
        return
    lines = []
    for model in models:
        if model is active:
            continue
        fall, low, where = measured_drop(model, active, places)
        is_bad = "bad" if low > MAX_DROP else ""
        scores = [f"{model.scores[task].mean():.0%}" for task in TASKS]
        shares = [f"{share_blocked(rule, model, active, draws):.1%}" for rule in RULES.values()]
        lines.append([model.name, *scores, f"{fall:.0%} ({low:.0%}) {where}", is_bad, *shares])
    head = ["model", *TASKS, "greatest fall (lower end)", "", *RULES]
    of = f"{len(lines)} of {len(runs()) - 1} models"
    print(f"{of}; {ASKED} rows of each task at most, {draws} draws, limit {MAX_DROP:.0%}")
    show_table(head, lines)


def main() -> None:
    """Make what is missing, if asked to, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, help="folder of base, adapters and answers; makes missing runs")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no further run after that")
    parser.add_argument("--only", nargs="+", choices=[*runs()], default=[*runs()], metavar="RUN")
    parser.add_argument("--draws", type=int, default=DRAWS)
    given = parser.parse_args()
    if given.state is not None:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait keep other work from the cores
        given.state.mkdir(parents=True, exist_ok=True)
        make_missing(given.state.resolve(), given.minutes, given.only)
    show(given.draws)


if __name__ == "__main__":
    main()
