"""Gradient strategies: declared by planners, refused at construction."""

import inspect

import pytest

import diffplan as dp
from diffplan import planners
from diffplan.errors import UnsupportedGradientError
from diffplan.gradients import require_supported

CONCRETE = [
    getattr(planners, name)
    for name in planners.__all__
    if inspect.isclass(getattr(planners, name))
    and issubclass(getattr(planners, name), planners.Planner)
    and not inspect.isabstract(getattr(planners, name))
]


@pytest.mark.parametrize("planner", CONCRETE, ids=lambda planner: planner.__name__)
def test_every_planner_declares_strategies(planner: type[dp.Planner]) -> None:
    declared = planner.supported_gradients
    assert declared
    assert all(issubclass(kind, dp.GradientStrategy) for kind in declared)
    assert dp.GradientStrategy not in declared


@pytest.mark.parametrize("planner", CONCRETE, ids=lambda planner: planner.__name__)
def test_the_default_strategy_is_a_declared_one(planner: type[dp.Planner]) -> None:
    assert isinstance(planner(horizon=3).gradient, planner.supported_gradients)


@pytest.mark.parametrize("planner", CONCRETE, ids=lambda planner: planner.__name__)
def test_the_base_strategy_is_refused(planner: type[dp.Planner]) -> None:
    with pytest.raises(UnsupportedGradientError, match=planner.__name__):
        planner(horizon=3, gradient=dp.GradientStrategy())


def test_the_refusal_names_planner_supported_and_given() -> None:
    with pytest.raises(
        UnsupportedGradientError, match=r"gradient: CEM supports Detach\(\); got Unroll"
    ):
        require_supported("CEM", dp.Unroll(), (dp.Detach,))


def test_a_supported_strategy_is_returned() -> None:
    strategy = dp.Unroll()
    assert require_supported("MPPI", strategy, (dp.Unroll, dp.Detach)) is strategy


def test_strategies_are_equal_by_value() -> None:
    assert dp.Unroll() == dp.Unroll()
    assert dp.Unroll() != dp.Detach()
