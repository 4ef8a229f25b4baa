"""Pure decisions of the evaluator."""
