"""The evaluator's pure decisions: plans, limits, verdicts and schedules of evaluations."""
