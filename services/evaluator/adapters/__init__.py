"""The technologies behind the ports of the evaluator."""
