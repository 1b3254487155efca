"""The bench against transformers compares the same thing: both sides give the same margins."""

import pytest
import torch

from analyzer.models.loading import load_model
from bench.against_transformers import ASKS, SideBySide


@pytest.mark.slow
def test_margins_are_those_of_transformers_with_a_kept_cache() -> None:
    with torch.inference_mode():
        match = SideBySide(load_model("nano", "cpu"), ASKS[:2], is_same_work=True)
        rounds = [match.window() for _ in range(4)]
    assert [len(each.found) for each in rounds] == [2] * 4
    assert max(each.apart for each in rounds) < 1e-3
    assert len({margin for each in rounds for margin in each.margins}) == 8
