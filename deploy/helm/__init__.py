"""The Helm chart, and the modules that generate its facts, values and schema."""
