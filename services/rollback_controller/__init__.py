"""Takes production back to the previous version by the declared policy, and proves beforehand that it can."""
