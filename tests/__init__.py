"""The tests; what libraries read from the environment when they are imported is set here, as in the Makefile."""

import os

for name, value in {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "OMP_WAIT_POLICY": "PASSIVE"}.items():
    os.environ.setdefault(name, value)
