"""Tables show the columns that have values, and say of a version that was rolled back how its release had ended."""

import re

import pytest

from services.console.domain.duty_screens import Listed
from services.console.domain.release_data import VariantRow
from services.console.web.rendering import NONE, Pages

FIGURES = {
    "size_bytes": 1_000_000,
    "perplexity_ratio": 1.002,
    "mean_kl": 0.003,
    "ttft_p50_ms": 12.0,
    "ttft_p95_ms": 20.0,
    "baseline_ttft_p95_ms": 21.0,
    "tps": 80.0,
}
TITLES = ["Size", "Perplexity", "Mean KL", "TTFT p50", "TTFT p95", "Baseline", "Tokens/s"]
NOTHING = dict.fromkeys([*FIGURES, "size_ratio"])


def variant(name: str, reason: str = "", **figures: float) -> VariantRow:
    known = {**NOTHING, **figures}
    return VariantRow(
        variant=name, state="pass", chosen=False, on_pareto_front=False, reason=reason, code=None, **known
    )


def table_of(rows) -> str:
    pages = Pages(clock=None, progress=None)
    template = pages._environment.from_string('{% from "parts.html" import variants %}{{ variants(rows) }}')
    return template.render(rows=rows)


def titles_of(html: str) -> list[str]:
    return re.findall(r"<th(?: [^>]*)?>(.*?)</th>", html)


@pytest.mark.parametrize("left_out", [None, *FIGURES])
def test_a_figure_that_no_variant_has_is_no_column(left_out):
    known = {name: value for name, value in FIGURES.items() if name != left_out}
    html = table_of([variant("bf16", **known), variant("int8", reason="Behind bf16.")])
    expected = [title for name, title in zip(FIGURES, TITLES, strict=True) if name != left_out]
    assert titles_of(html) == ["Variant", "Verdict", *expected]
    assert f'<td colspan="{2 + len(expected)}" class="sub">Behind bf16.' in html
    for row in re.findall(r"<tr><td class=\"nowrap\">.*?</tr>", html, re.DOTALL):
        assert row.count("<td") == 2 + len(expected)


def test_a_column_stays_where_one_variant_has_its_figure_and_the_other_shows_none():
    html = table_of([variant("bf16", mean_kl=0.0), variant("int8")])
    assert titles_of(html) == ["Variant", "Verdict", "Mean KL"]
    assert html.count(f">{NONE}<") == 1


def test_variants_that_were_not_measured_have_their_state_only():
    assert titles_of(table_of([variant("bf16")])) == ["Variant", "Verdict"]


@pytest.mark.parametrize(
    ("team", "models", "more"),
    [(None, (), []), ("shop", (), ["Team"]), (None, ("shop-bot",), ["Models"]), ("shop", ("a",), ["Team", "Models"])],
)
def test_keys_show_teams_and_models_where_a_key_has_one(team, models, more):
    people = [listed("anna"), listed("bot", team, models)]
    source = Pages(clock=None, progress=None)._environment.get_template("keys.html")
    html = "".join(source.blocks["sheet"](source.new_context({"people": people})))
    assert titles_of(html) == ["Name", "Roles", *more, "Public keys end with", "Orders in the console"]
    assert html.count("<td>all</td>") == ("Models" in more), "anna's key is limited to none"


def listed(name: str, team: str | None = None, models: tuple[str, ...] = ()) -> Listed:
    return Listed(name=name, roles=("operator",), team=team, models=models, keys=("ABCDEFGH",), orders_here=True)
