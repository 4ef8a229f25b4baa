"""The quantiser: makes the precisions that a release asks for, and proves what each costs in quality."""
