"""The checks that all arguments pass."""

import math

import numpy as np
import pytest
import torch

from diffplan._checks import (
    LARGEST_COUNT,
    require_at_least,
    require_count,
    require_positive,
    require_share,
)
from diffplan._user_functions import require_result
from diffplan.errors import ArgumentError, NotATensorError, ShapeError, TensorTypeError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), LARGEST_COUNT])
def test_whole_numbers_of_any_kind_become_an_int(value: object) -> None:
    counted = require_count("n", value)
    assert type(counted) is int
    assert counted == int(value)


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.True_,
        torch.tensor(True),
        torch.tensor(3),
        0,
        -2,
        3.0,
        math.nan,
        "3",
        None,
        10**30,
    ],
)
def test_what_cannot_be_counted_is_refused(value: object) -> None:
    with pytest.raises((ArgumentError, TypeError), match="n"):
        require_count("n", value)


@pytest.mark.parametrize("check", [require_at_least, require_positive, require_share])
@pytest.mark.parametrize("value", [math.nan, -1.0, True, "1"])
def test_what_is_no_number_in_range_is_refused(check: object, value: object) -> None:
    arguments = (0.0,) if check is require_at_least else ()
    with pytest.raises((ArgumentError, TypeError), match=r"x|value"):
        check("x", value, *arguments)


@pytest.mark.parametrize(
    ("result", "expected", "words"),
    [
        (torch.zeros(()), (3,), "dim=-1"),
        (torch.zeros(1), (3, 4), "dim=-1"),
        (torch.zeros(3, 1), (3,), "keepdim"),
        (torch.zeros(3, 5), (3,), r"\.sum\(-1\)"),
        (torch.zeros(3), (3, -1), "unsqueeze"),
        (torch.zeros(2), (3, -1), "it lost|dim=-1"),
        (torch.zeros(4, 2), (3, -1), "line up"),
        (torch.zeros(3, 3), (3, 2), "stay as they are"),
    ],
)
def test_the_message_says_what_probably_happened(
    result: torch.Tensor, expected: tuple[int, ...], words: str
) -> None:
    like = torch.zeros(3, 2)
    if expected == (3, 4):
        like = torch.zeros(3, 4, 2)
    with pytest.raises(ShapeError, match=words):
        require_result("cost:", "it", result, expected, like)


def test_results_of_any_size_pass_where_the_last_one_is_free() -> None:
    for size in (0, 1, 5):
        result = torch.zeros(3, size)
        assert require_result("r:", "it", result, (3, -1), torch.zeros(3, 2)) is result


@pytest.mark.parametrize("result", [None, True, 1.0, np.zeros(3), (torch.zeros(3),)])
def test_no_tensor_has_neither_shape_nor_dtype(result: object) -> None:
    with pytest.raises(NotATensorError) as caught:
        require_result("cost:", "it", result, (3,), torch.zeros(3, 2))
    assert isinstance(caught.value, ShapeError)
    assert isinstance(caught.value, TensorTypeError)


def test_half_precision_under_autocast_says_why() -> None:
    half = torch.zeros(3, dtype=torch.bfloat16)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(TensorTypeError, match="autocast is on"),
    ):
        require_result("cost:", "it", half, (3,), torch.zeros(3, 2))
    with pytest.raises(TensorTypeError, match=r"use \.to\(state\.dtype\)"):
        require_result("cost:", "it", half, (3,), torch.zeros(3, 2))
