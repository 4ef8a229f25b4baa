"""Report a processor, as `services.quantiser.adapters.processor` does with torch."""

from contracts.facts import Processor
from shared.runtime.worker import job_main

PROCESSOR = Processor(device="cpu", instruction_set="AVX2", capability="AVX2", amx=False, threads=1)

if __name__ == "__main__":
    job_main(lambda _arguments: PROCESSOR.model_dump(mode="json"))
