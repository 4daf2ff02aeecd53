"""The hard choice of the k best."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffplan.errors import ArgumentError
from diffplan.functional.top_k import hard_top_k


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=12), st.data())
def test_chosen_scores_are_at_least_the_others(
    scores: list[float], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(scores)))
    chosen = hard_top_k(torch.tensor(scores), k).bool()
    assert chosen.sum() == k  # ties included
    best = sorted(scores, reverse=True)[:k]
    picked = [s for s, c in zip(scores, chosen.tolist(), strict=True) if c]
    assert sorted(picked, reverse=True) == best


def test_each_row_chooses_for_itself() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0], [-1.0, 5.0, -torch.inf]])
    assert hard_top_k(scores, 2).tolist() == [[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]


def test_all_tied_still_chooses_k() -> None:
    assert hard_top_k(torch.zeros(4, 9), 3).sum(-1).tolist() == [3.0] * 4


def test_all_infinite_still_chooses_k() -> None:
    assert hard_top_k(torch.full((5,), -torch.inf), 2).sum() == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_there_is_no_gradient(dtype: torch.dtype) -> None:
    scores = torch.arange(4, dtype=dtype).requires_grad_()
    chosen = hard_top_k(scores, 2)
    assert chosen.dtype == dtype
    assert not chosen.requires_grad


def test_vmap() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0], [-1.0, 5.0, 0.0]])
    mapped = torch.func.vmap(lambda row: hard_top_k(row, 1))(scores)
    assert torch.equal(mapped, hard_top_k(scores, 1))


@pytest.mark.parametrize("k", [0, 4])
def test_more_than_there_are_is_refused(k: int) -> None:
    with pytest.raises(ArgumentError, match="k: expected"):
        hard_top_k(torch.zeros(2, 3), k)


def test_no_number_makes_its_row_none() -> None:
    """The k highest of numbers that cannot be compared are nobody's choice."""
    scores = torch.tensor([[3.0, torch.nan, 2.0], [-1.0, 5.0, 0.0]])
    chosen = hard_top_k(scores, 1)
    assert chosen[0].isnan().all()
    assert chosen[1].tolist() == [0.0, 1.0, 0.0]
