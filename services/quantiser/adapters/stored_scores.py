"""Stores a merged model's log-probabilities on disk, so that merged model and variant need not share memory."""

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from contracts.vocabulary import digest_of_json
from services.quantiser.adapters.evaluation import log_probabilities


class StoredScores:
    """A model's stored log-probabilities by window, used in place of the model.

    One float32 file per window: 100 MB for 511 tokens and a vocabulary of 49,152.
    """

    def __init__(self, folder: Path, load: Callable[[], Any]) -> None:
        """Create the folder for the files, and set the model's loader."""
        folder.mkdir()
        self._folder = folder
        self._load = load

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is untyped
    def compute(self, windows: Sequence[list[int]], on_window: Callable[[int, int], None] = lambda *_: None) -> None:
        """Load the model, store its log-probabilities, and release it."""
        model = self._load()
        for index, window in enumerate(windows):
            scores = log_probabilities(model, torch.tensor([window], device=model.device))
            write_scores(self._path(window), scores)
            on_window(index + 1, len(windows))
        del model
        gc.collect()

    def log_probabilities(self, ids: Any) -> Any:
        """Return the stored log-probabilities [tokens - 1, vocabulary] of a window [1, tokens]."""
        window = ids[0].tolist()
        return read_scores(self._path(window), len(window) - 1).to(ids.device)

    def _path(self, window: list[int]) -> Path:
        return self._folder / f"{digest_of_json(window).removeprefix('sha256:')}.f32"


def write_scores(path: Path, scores: torch.Tensor) -> None:
    """Write a matrix as raw float32.

    Raises:
        OSError: The disk is full; `torch.save` would raise an unspecific RuntimeError.
    """
    with path.open("wb") as file:
        file.write(memoryview(scores.float().cpu().contiguous().numpy()).cast("B"))


def read_scores(path: Path, rows: int) -> torch.Tensor:
    """Read a matrix with this number of rows."""
    data = bytearray(path.stat().st_size)
    with path.open("rb") as file:
        file.readinto(data)
    return torch.frombuffer(data, dtype=torch.float32).reshape(rows, -1)
