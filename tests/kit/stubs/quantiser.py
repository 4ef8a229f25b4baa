"""The quantiser as it is, but for its children: `python -m tests.kit.stubs.quantiser`.

Its tests look at processes (kills, deadlines, the ends of releases), not at weights.
"""

from services.quantiser import main
from services.quantiser.adapters import engine

if __name__ == "__main__":
    engine.WORKER_MODULE = "tests.kit.stubs.quantise_worker"
    main.main()
