"""A comparison of two models, window by window."""

import math
import types

import pytest
import torch

from services.quantiser.adapters import evaluation

SEED, WIDTH, VOCABULARY = 0, 32, 50


class Bigram(torch.nn.Module):
    """A model whose next token depends on the token before."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            self.embedding = torch.nn.Embedding(VOCABULARY, WIDTH)
            self.head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, input_ids, use_cache):
        assert not use_cache
        return types.SimpleNamespace(logits=self.head(self.embedding(input_ids)))


WINDOWS = [[(7 * n * n + 11 * n) % VOCABULARY for n in range(length)] for length in (64, 200, 100)]


def test_the_same_model_has_no_kl():
    model = Bigram()
    quality, windows = evaluation.measure_quality(model, model, WINDOWS, lambda *_: None)
    assert (quality.mean_kl, quality.perplexity_ratio) == (0.0, 1.0)
    assert [window.nll for window in windows] == [window.reference_nll for window in windows]


def test_a_window_is_recorded_token_by_token_so_that_its_beginning_can_be_scored():
    model = Bigram()
    _, windows = evaluation.measure_quality(model, model, WINDOWS, lambda *_: None)
    _, beginnings = evaluation.measure_quality(model, model, [ids[:3] for ids in WINDOWS], lambda *_: None)
    for window, beginning in zip(windows, beginnings, strict=True):
        for nll, by_token in ((window.nll, window.token_nlls), (window.reference_nll, window.reference_token_nlls)):
            assert len(by_token) == len(window.token_ids) - 1
            assert math.fsum(by_token) == pytest.approx(nll, abs=1e-4)
            assert math.fsum(by_token[:2]) == pytest.approx(beginning.nll, abs=1e-4)
