"""How many pairs confirm a regression by how many callers, and how often one hostile caller confirms what is none.

Seeded pairs go through `decisions.pairs` alone, as evidence about the active version or a canary, at two levels. About
the active one they must stand without callers with half of the requests, too (`decisions.pair_shares`; shares of all
pairs). Three
pairs in ten differ. Without limit: the same pairs with no caller named, of which nothing is left out.

- Honest callers: the version is bad in 85 % or 75 % of the pairs that differ, for two callers (equal, or 60 % and 40 %
  of the pairs), three and ten; or for two while a third one, with 10 % of the pairs, sends what only the other version
  answers badly.
- One hostile caller has 10 % or 40 % of the pairs, bad on the version only. Twenty others send pairs of versions that
  are alike: none, 2 % or 10 % of these differ, in either direction.

Run: python -m benchmarks.bench_pairs
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.parts import quantile, show_table
from decisions.pair_callers import needed_log_e
from decisions.pair_shares import are_from_most
from decisions.pairs import fresh_test, observe_mirrored

PAIRS, RUNS, DIFFERING = 1500, 40, 0.3
LEVELS = ((0.01, False), (0.001, False), (0.01, True), (0.001, True))
CALLERS: dict[str, Sequence[float]] = {"2": (1, 1), "2, 60 to 40": (6, 4), "3": (1, 1, 1), "10": (1,) * 10}
HOSTILE_SHARES, NOISE, BLOCKED = (0.1, 0.4), (0.0, 0.02, 0.1), 0.1


@dataclass(frozen=True)
class Pair:
    """On which of the two versions a request was bad, and who sent it."""

    target: bool
    other: bool
    caller: str


def honest(seed: int, weights: Sequence[float], bad: float) -> Iterator[Pair]:
    """Yield pairs of callers that all meet the same regression."""
    draw = random.Random(seed)
    for _ in range(PAIRS):
        differs, on_target = draw.random() < DIFFERING, draw.random() < bad
        caller = draw.choices(range(len(weights)), weights)[0]
        yield Pair(differs and on_target, differs and not on_target, f"honest-{caller}")


def hostile(seed: int, share: float, noise: float) -> Iterator[Pair]:
    """Yield pairs of one hostile caller, and of others for whom the versions are alike."""
    draw = random.Random(seed)
    for _ in range(PAIRS):
        differs, on_target = draw.random() < noise, draw.random() < 0.5
        if draw.random() < share:
            yield Pair(target=True, other=False, caller="hostile")
        else:
            yield Pair(differs and on_target, differs and not on_target, f"honest-{draw.randrange(20)}")


def blocked(seed: int, weights: Sequence[float], bad: float) -> Iterator[Pair]:
    """Yield pairs of honest callers, and of one that sends what only the other version answers badly."""
    draw = random.Random(f"blocked {seed}")
    against = Pair(target=False, other=True, caller="hostile")
    for pair in honest(seed, weights, bad):
        yield against if draw.random() < BLOCKED else pair


def needed(pairs: Iterator[Pair], alpha: float, *, canary: bool, named: bool) -> int | None:
    """Return how many pairs it takes to confirm; None if they do not."""
    test, sent = fresh_test(canary=canary), list(pairs)
    requests = Counter(pair.caller for pair in sent)
    for number, pair in enumerate(sent, 1):
        caller = pair.caller if named else None
        test = observe_mirrored(test, target=pair.target, other=pair.other, caller=caller, alpha=alpha)
        stands = canary or are_from_most(test.holders, requests, alpha)
        if stands and test.discordant.log_e >= needed_log_e(alpha):
            return number
    return None


def show_honest() -> None:
    """Print how often a regression is confirmed, and after how many pairs."""
    print(f"Regressions confirmed within {PAIRS} pairs, {RUNS} runs: median of pairs, confirmed\n")
    rows = []
    for alpha, canary in LEVELS:
        for bad in (0.85, 0.75):
            row = ["canary" if canary else "active", f"{alpha:g}", f"{bad:.0%}"]
            two = CALLERS["2"]
            columns = [(honest, two, False), *((honest, weights, True) for weights in CALLERS.values())]
            for sent, weights, named in (*columns, (blocked, two, False), (blocked, two, True)):
                ends = [needed(sent(seed, weights, bad), alpha, canary=canary, named=named) for seed in range(RUNS)]
                moments = [float(end) for end in ends if end is not None]
                row.append(f"{quantile(moments, 0.5):.0f}, {len(moments)} of {RUNS}" if moments else f"0 of {RUNS}")
            rows.append(row)
    names = [*(f"{callers} callers" for callers in CALLERS), "2 and one against, without limit", "2 and one against"]
    show_table(["evidence about", "alpha", "bad of those that differ", "without limit", *names], rows)


def show_hostile() -> None:
    """Print how often one hostile caller confirms a version that is as good as the other one."""
    print(f"\nFalse confirmations within {PAIRS} pairs, {RUNS} runs\n")
    rows = []
    for alpha, canary in LEVELS:
        for noise in NOISE:
            row = ["canary" if canary else "active", f"{alpha:g}", f"{noise:.0%}"]
            for share, named in ((0.0, True), *((share, named) for share in HOSTILE_SHARES for named in (False, True))):
                ends = [needed(hostile(seed, share, noise), alpha, canary=canary, named=named) for seed in range(RUNS)]
                row.append(f"{sum(end is not None for end in ends)} of {RUNS}")
            rows.append(row)
    names = [f"{share:.0%} of the pairs{limit}" for share in HOSTILE_SHARES for limit in (", without limit", "")]
    show_table(["evidence about", "alpha", "others' pairs that differ", "no hostile caller", *names], rows)


def main() -> None:
    show_honest()
    show_hostile()


if __name__ == "__main__":
    main()
