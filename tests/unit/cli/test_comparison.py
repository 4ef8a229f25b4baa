"""The variants of a release side by side, as the registry compared them."""

from clients.cli.views import comparison
from contracts import facts as f
from testbed.factories import registered
from testbed.values import comparison as compared

UNDER_WAY = f.ComparedVariant(variant="bf16", verdict="inconclusive", reason="It was not judged.")
LOST = f.ComparedVariant(
    variant="gptq-int4", verdict="fail", code="quality_gate_failed", reason="Too much was lost.", perplexity_ratio=1.4
)


def test_the_table_of_the_variants_and_why_some_failed(snapshot):
    whole = compared()
    rows = [comparison.COLUMNS, *(comparison.row(each, whole) for each in (*whole.variants, LOST, UNDER_WAY))]
    assert "\n".join([*(" | ".join(row) for row in rows), comparison.why(LOST)]) == snapshot
    assert {len(row) for row in rows} == {len(comparison.COLUMNS)}


def test_the_perplexity_on_the_own_evaluation_set_is_shown_where_there_is_one():
    assert "int8 x1.0200" in comparison.on_own_set(compared().variants)
    assert comparison.on_own_set([LOST]) == ""


def test_of_a_version_without_a_record_of_its_release_its_manifest_is_shown():
    whole = comparison.of_registered([registered()])
    row = comparison.row(whole.variants[0], whole)
    assert (row[0], row[2], row[-1]) == ("int8", f"x{registered().size_ratio:.2f}", "-")
