"""The services, one package each; they never import each other. Each program calls `finish_imports` or `run_service`."""

from shared.runtime.program_imports import begin_imports

begin_imports()
