"""The services, one package each; they never import each other. Each program of theirs calls `finish_imports`."""

from shared.runtime.program_imports import begin_imports

begin_imports()
