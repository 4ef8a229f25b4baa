"""The services, one package each; none imports another. Each program calls `finish_imports` or `run_service`."""

from shared.runtime.program_imports import begin_imports

begin_imports()
