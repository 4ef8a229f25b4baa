"""A full disk while log-probabilities are stored is an error that is tried again, and stored ones come back as they are."""

from pathlib import Path

import pytest
import torch

from services.quantiser.adapters.stored_scores import read_scores, write_scores
from shared.errors import Transient, translate

SCORES = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)


@pytest.mark.parametrize("scores", [SCORES, SCORES.T.contiguous().T, SCORES[:1]])
def test_scores_come_back_bit_by_bit(tmp_path, scores):
    write_scores(tmp_path / "scores", scores)
    assert torch.equal(read_scores(tmp_path / "scores", len(scores)), scores)


def test_a_full_disk_is_tried_again():
    with pytest.raises(OSError, match="No space left") as caught:
        write_scores(Path("/dev/full"), SCORES)
    error = translate(caught.value)
    assert (type(error), error.code) == (Transient, "disk_full")
