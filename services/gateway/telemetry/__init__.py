"""What is recorded of requests: records, features, traces, metrics."""
