"""Tables show the columns that have values, and say of a version that was rolled back how its release had ended."""

import pytest

from services.console.domain.release_data import VariantRow
from services.console.web.rendering import Pages
from tests.kit.page_text import page_text

FIGURES = {
    "size_bytes": 1_000_000,
    "perplexity_ratio": 1.002,
    "mean_kl": 0.003,
    "ttft_p50_ms": 12.0,
    "ttft_p95_ms": 20.0,
    "baseline_ttft_p95_ms": 21.0,
    "tps_system": 80.0,
}
NOTHING = dict.fromkeys([*FIGURES, "size_ratio"])


def variant(name: str, reason: str = "", **figures: float) -> VariantRow:
    known = {**NOTHING, **figures}
    return VariantRow(
        variant=name, state="pass", chosen=False, on_pareto_front=False, reason=reason, code=None, **known
    )


def table_of(rows) -> str:
    pages = Pages(clock=None, progress=None, protection=None)
    template = pages._templates.env.from_string('{% from "parts.html" import variants %}{{ variants(rows) }}')
    return template.render(rows=rows)


@pytest.mark.parametrize("left_out", [None, *FIGURES])
def test_a_figure_that_no_variant_has_is_no_column(left_out, snapshot):
    known = {name: value for name, value in FIGURES.items() if name != left_out}
    assert page_text(table_of([variant("bf16", **known), variant("int8", reason="Behind bf16.")])) == snapshot


@pytest.mark.parametrize("figures", [{}, {"mean_kl": 0.0}])
def test_a_column_stays_where_one_variant_has_its_figure_and_the_other_shows_none(figures, snapshot):
    assert page_text(table_of([variant("bf16", **figures), variant("int8")])) == snapshot
