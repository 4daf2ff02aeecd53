"""The action space of choices: its nearest points, its hull, what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import diffplan as dp
from diffplan.errors import ArgumentError, ShapeError

NUMBERS = st.lists(st.floats(-5, 5, width=32), min_size=7, max_size=7)
SPACE = dp.Categorical(3, 2, box=dp.Box([-1.0, 0.2], [0.7, 0.2]))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(NUMBERS)
def test_nearest_allowed_actions_and_probabilities(numbers: list[float]) -> None:
    given = torch.tensor(numbers, dtype=torch.float64)
    nearest = SPACE.project(given)
    assert SPACE.contains(nearest)
    ends = [torch.eye(3).double(), torch.eye(2).double()]
    box = given[:2].clamp(
        *SPACE.to(given).split(torch.stack([SPACE.low, SPACE.high]))[0]
    )
    every = [torch.cat([box, one, two]) for one in ends[0] for two in ends[1]]
    distances = torch.stack([(given - point).norm() for point in every])
    torch.testing.assert_close((given - nearest).norm(), distances.min())
    _, *blocks = SPACE.split(SPACE.hull(given))
    for block, size in zip(blocks, (3, 2), strict=True):
        simplex = dp.constraints.Simplex()
        part = given[2:5] if size == 3 else given[5:]
        torch.testing.assert_close(block, simplex.project(part))


def test_what_lies_in_between_is_not_allowed() -> None:
    allowed = torch.tensor([0.0, 0.2, 0.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    assert SPACE.contains(allowed)
    for index, value in ((0, 0.8), (1, 0.3), (3, 0.5), (2, 1.0), (5, 0.0)):
        other = allowed.clone()
        other[index] = value
        assert not SPACE.contains(other)
    assert torch.equal(SPACE.excess(allowed), torch.zeros(7).double())


def test_it_moves_between_dtypes() -> None:
    moved = SPACE.to(torch.zeros(1))
    assert isinstance(moved, dp.Categorical)
    assert moved.low.dtype == torch.float32
    assert moved.sizes == (3, 2)
    assert moved.to(torch.zeros(1)) is moved
    assert repr(dp.Categorical(3, 2)) == "Categorical(3, 2)"
    assert "box=Box" in repr(SPACE)


def test_the_derivative_of_a_choice_is_passed_straight_through() -> None:
    given = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 7, dtype=torch.float64)
    (SPACE.project(given) * weights).sum().backward()
    assert torch.equal(given.grad[:, 2:], weights[:, 2:])


def test_infinite_numbers_are_choices_too() -> None:
    inf, space = torch.inf, dp.Categorical(3)
    given = torch.tensor([[-inf, 1.0, 2.0], [0.0, inf, 2.0]], requires_grad=True)
    chosen = space.project(given)
    assert chosen.tolist() == [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    assert space.contains(chosen).all()
    chosen.sum().backward()
    assert given.grad.tolist() == [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]
    failed = space.project(torch.tensor([0.0, torch.nan, 1.0]))
    assert failed.isnan().any()


def test_the_middle_is_even() -> None:
    expected = torch.tensor([-0.15, 0.2, 1 / 3, 1 / 3, 1 / 3, 0.5, 0.5]).double()
    torch.testing.assert_close(SPACE.center, expected)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ArgumentError, match="sizes"):
        dp.Categorical()
    with pytest.raises(ArgumentError, match="sizes"):
        dp.Categorical(3, 0)
    with pytest.raises(ArgumentError, match="box"):
        dp.Categorical(3, box=dp.Categorical(2))
    with pytest.raises(ShapeError, match="actions"):
        SPACE.project(torch.zeros(6))
