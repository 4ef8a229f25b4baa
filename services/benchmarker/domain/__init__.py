"""The benchmarker's pure decisions: plan of a load, figures, and verdicts."""
