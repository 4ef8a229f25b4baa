"""Pure decisions of the benchmarker: the plan of a load, its figures, and their verdicts."""
