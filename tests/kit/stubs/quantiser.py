"""The quantiser as it is, but for its children: `python -m tests.kit.stubs.quantiser`.

Its tests look at processes (kills, deadlines, the ends of releases), not at weights.
"""

import asyncio

from services.quantiser import main
from services.quantiser.adapters import child

if __name__ == "__main__":
    child.MODULE = "tests.kit.stubs.quantise_worker"
    child.PROCESSOR_MODULE = "tests.kit.stubs.processor"
    asyncio.run(main.run())
