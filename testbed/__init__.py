"""What tests and benchmarks run on: real servers, services as processes, the whole stack, tiny models, and events.

Imports no test and no benchmark, and no product code imports it. What only tests use (fakes, conformance suites, the
plugins of the run) is in `tests/kit`.
"""
