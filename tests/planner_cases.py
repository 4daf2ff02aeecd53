"""Every planner, small enough to test, and what it declares about itself.

The contract suite runs on each case. To add a planner, add one entry to `CASES`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn

import diffplan as dp
from diffplan.planners import CEM, MPPI, GradMPC, LatCo, Planner, ShootingGD
from diffplan.solvers import BlockCholeskySolver


@dataclass(frozen=True)
class PlannerCase:
    """One planner under test.

    Attributes:
        name: Shown by pytest.
        build: `build(horizon, **changes)`, keyword arguments of the planner.
        stochastic: Whether the generator decides the answer.
        optimum_gap: How far above the optimal cost the plan for the bounded double
            integrator may end (T = 5, relative).
        warm_gap: How much worse than its warm start a plan may be (relative).
        dynamics_tolerance: How far states may be from the rollout of the actions.
        gradients: The strategies that it declares.
        compiled: Whether `solve` compiles into one graph.
        vmapped: Whether `torch.func.vmap` maps over it.
        learnable: Names of numbers that may be an `nn.Parameter`, with a value.
        needs: An optional package, without which the case is skipped.
        feasible_throughout: Whether the cost trace is that of feasible trajectories,
            so that it falls; collocation pays for feasibility with cost.
    """

    name: str
    build: Callable[..., Planner]
    stochastic: bool = True
    optimum_gap: float = 0.02
    warm_gap: float = 1e-3
    dynamics_tolerance: float = 1e-5
    gradients: tuple[type[dp.GradientStrategy], ...] = (dp.Detach,)
    compiled: bool = True
    vmapped: bool = True
    learnable: tuple[tuple[str, float], ...] = ()
    needs: str | None = None
    feasible_throughout: bool = True


def case(
    name: str, planner: type[Planner], defaults: dict[str, Any], **declared: Any
) -> PlannerCase:
    """One entry of `CASES`; `defaults` are arguments of the planner."""

    def build(horizon: int = 5, **changes: Any) -> Planner:
        return planner(horizon=horizon, **{**defaults, **changes})

    return PlannerCase(name, build, **declared)


BOTH = (dp.Unroll, dp.Detach)

# Quadratic costs are met exactly only where the dynamics are: hard multipliers at once.
LATCO = {
    "dynamics_tolerance": 1e-10,
    "action_tolerance": 1e-10,
    "damping": 1e-6,
    "initial_multipliers": (1e4, 1e4),
    "action_violation": "paper",
}

CASES = [
    case(
        "CEM",
        CEM,
        {"num_samples": 64, "num_elites": 8, "iterations": 8},
        warm_gap=0.02,
    ),
    case(
        "CEM-coloured",
        CEM,
        {"num_samples": 64, "num_elites": 8, "iterations": 8, "noise_exponent": 2.0},
        optimum_gap=0.04,
        warm_gap=0.06,
    ),
    case(
        "MPPI",
        MPPI,
        {"num_samples": 64, "iterations": 8, "temperature": 0.02},
        optimum_gap=0.12,
        warm_gap=0.04,
        gradients=BOTH,
        learnable=(("temperature", 0.3), ("initial_std", 0.5)),
    ),
    case(
        "MPPI-fixed-std",
        MPPI,
        {
            "num_samples": 64,
            "iterations": 8,
            "temperature": 0.02,
            "fixed_std": True,
            "initial_std": 0.3,
        },
        optimum_gap=0.08,
        warm_gap=0.08,
        gradients=BOTH,
        learnable=(("temperature", 0.3), ("initial_std", 0.5)),
    ),
    case(
        "ShootingGD",
        ShootingGD,
        {"iterations": 100, "step_size": 0.05, "num_starts": 2},
        gradients=BOTH,
        learnable=(("step_size", 0.05),),
    ),
    case(
        "GradMPC",
        GradMPC,
        {"iterations": 80, "num_candidates": 4, "step_size": 0.05},
        optimum_gap=0.06,
        gradients=BOTH,
        learnable=(("step_size", 0.02),),
    ),
    case(
        "GradMPC-rmsprop",
        GradMPC,
        {
            "iterations": 60,
            "num_candidates": 4,
            "step_size": 0.02,
            "optimizer": "rmsprop",
            "clip": 1.0,
        },
        gradients=BOTH,
        learnable=(("step_size", 0.02),),
    ),
    case(
        "LatCo",
        LatCo,
        {"iterations": 60, **LATCO},
        gradients=BOTH,
        compiled=False,
        vmapped=False,
        feasible_throughout=False,
    ),
    case(
        "LatCo-cholesky",
        LatCo,
        {"iterations": 60, "solver": BlockCholeskySolver(), **LATCO},
        gradients=BOTH,
        compiled=False,
        vmapped=False,
        feasible_throughout=False,
    ),
    case(
        "LatCo-theseus",
        LatCo,
        {"iterations": 60, "engine": "theseus", **LATCO},
        gradients=BOTH,
        compiled=False,
        vmapped=False,
        feasible_throughout=False,
        needs="theseus",
    ),
]


def each_planner_that(holds: Callable[[PlannerCase], bool]) -> pytest.MarkDecorator:
    """Run a test for each case that `holds`, given to it as `case`."""
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(
                case,
                id=case.name,
                marks=pytest.mark.skipif(
                    case.needs is not None and find_spec(case.needs) is None,
                    reason=f"needs the package {case.needs}",
                ),
            )
            for case in CASES
            if holds(case)
        ],
    )


each_planner = each_planner_that(lambda case: True)


def parameter(value: float) -> nn.Parameter:
    """A learnable number in float64."""
    return nn.Parameter(torch.tensor(value, dtype=torch.float64))
