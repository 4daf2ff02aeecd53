"""Gradient strategies: declared by planners, refused at construction."""

import importlib.util
from pathlib import Path

import pytest
import torch

import diffplan as dp
from diffplan.errors import UnsupportedGradientError
from diffplan.planners._derivatives import require_supported

SCRIPT = Path(__file__).parents[1] / "docs" / "gradient_table.py"
SPEC = importlib.util.spec_from_file_location("gradient_table", SCRIPT)
gradient_table = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gradient_table)
CONCRETE = gradient_table.concrete_planners()


def build(planner: type[dp.Planner], **arguments: object) -> dp.Planner:
    """A planner of that class; one that runs another gets one that it can unroll."""
    if planner is dp.AugmentedLagrangian:
        return planner(dp.GradMPC(horizon=3), **arguments)
    if planner is dp.LatentActions:
        decoder = torch.nn.Unflatten(-1, (3, 1))
        return planner(dp.GradMPC(horizon=1), decoder, 3, horizon=3, **arguments)
    if planner is dp.PolicyGradMPC:
        arguments["policy"] = torch.zeros_like
    return planner(horizon=3, **arguments)


@pytest.mark.parametrize("planner", CONCRETE, ids=lambda planner: planner.__name__)
def test_every_planner_declares_strategies(planner: type[dp.Planner]) -> None:
    declared = planner.supported_gradients
    assert declared
    assert all(issubclass(kind, dp.GradientStrategy) for kind in declared)
    assert dp.GradientStrategy not in declared


@pytest.mark.parametrize("planner", CONCRETE, ids=lambda planner: planner.__name__)
def test_the_default_strategy_is_a_declared_one(planner: type[dp.Planner]) -> None:
    assert isinstance(build(planner).gradient, tuple(planner.supported_gradients))


def test_the_page_on_gradients_shows_what_is_declared() -> None:
    page = gradient_table.PAGE.read_text(encoding="utf-8")
    assert page == gradient_table.page_with_table(page)
    assert all(f"`dp.{planner.__name__}`" in page for planner in CONCRETE)


@pytest.mark.parametrize("planner", CONCRETE, ids=lambda planner: planner.__name__)
def test_the_base_strategy_is_refused(planner: type[dp.Planner]) -> None:
    with pytest.raises(UnsupportedGradientError, match=planner.__name__):
        build(planner, gradient=dp.GradientStrategy())


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
