"""The highest term that an engine's agent has accepted, in a file that survives crashes and power loss."""

import os
import threading
from pathlib import Path

from pydantic import ValidationError

from services.server_manager.adapters.repository_files import replace_file
from services.server_manager.domain.fencing import assess_term
from services.server_manager.domain.records import Leader


class TermFile:
    """File of the process with the highest term, written by the agent only."""

    def __init__(self, path: Path) -> None:
        """Read the file; it may not exist before the first request.

        Raises:
            ValueError: The content is invalid, so superseded terms are unknown.
            OSError: The file cannot be read.
        """
        self._path = path
        self._writing = threading.Lock()
        self.highest: Leader | None = None
        try:
            self.highest = Leader.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return
        except ValidationError as error:
            msg = (
                f"{path} holds no term, so older server-managers would not be known: restore it, or remove it when "
                "none but the server-manager that leads is running."
            )
            raise ValueError(msg) from error

    def raise_to(self, leader: Leader) -> None:
        """Store a term if it is higher than the stored one; `highest` changes after the write to disk.

        Thread-safe.

        Raises:
            OSError: The file cannot be written; the previous term stays.
        """
        with self._writing:
            if assess_term(self.highest, leader) != "higher":
                return
            replace_file(self._path, leader.model_dump_json().encode())
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            self.highest = leader
