"""Every planner, small enough to test, and what it declares about itself.

The contract suite runs on each case. To add a planner, add one entry to `CASES`;
those of `examples/planners` are in `EXAMPLES`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from problems import gear_problem, mixed_gear_problem
from torch import Tensor, nn
from torch.distributions import Normal

import diffplan as dp
from diffplan.planners import (
    CEM,
    DCEM,
    ILQR,
    MPPI,
    AugmentedLagrangian,
    DualAscent,
    FirstOrderLatCo,
    GradMPC,
    ImageCollocation,
    LatCo,
    LatentActions,
    LogarithmicRule,
    MethodOfMultipliers,
    Planner,
    PolicyGradMPC,
    ShootingGD,
    ShootingGN,
)
from diffplan.planners.collocation._moments import MomentProblem
from diffplan.planners.request import PlanRequest
from diffplan.solvers import BlockCholeskySolver
from diffplan.testing import point_mass_problem
from examples.planners.dream_mpc import dream_mpc
from examples.planners.grasp import GRASP
from examples.planners.icem import ICEM
from examples.planners.policy_mppi import PolicyMPPI


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
        finds_clock: Whether its iterations suffice to find a clock among the states.
        estimator: Whether its gradient estimates one instead of being the plan's own,
            so that finite differences disagree.
        action_dim: The only number of action dimensions that it plans, or None.
        action_constraints: Whether it takes more than a box of actions.
        ball_gap: How far one action may end from the best one inside a ball.
        problem: `problem(dtype)` returns what the promises are tried on, and states.
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
    finds_clock: bool = True
    estimator: bool = False
    action_dim: int | None = None
    action_constraints: bool = True
    ball_gap: float = 1e-3
    problem: Callable[[torch.dtype], tuple[dp.PlanningProblem, Tensor]] = (
        point_mass_problem
    )

    def is_near(self, cost: float, least: float, passive: float) -> bool:
        """Whether a plan is as near to the optimum as this planner comes anywhere.

        Exact planners are exact; of the others `optimum_gap` speaks of one problem, and
        elsewhere they reach half of what there is to gain, or are half above it.

        Args:
            cost: Of the plan.
            least: Of the optimum.
            passive: Of actions that are zero.
        """
        gap = 0.5 * max(passive - least, abs(least))
        if self.optimum_gap <= 1e-8:
            gap = self.optimum_gap * max(passive - least, abs(least))
        return least - 1e-9 <= cost <= least + gap + 1e-9

    @property
    def missing(self) -> str:
        """The optional package that is needed and absent, or nothing."""
        absent = self.needs is not None and find_spec(self.needs) is None
        return str(self.needs) if absent else ""


def case(
    name: str,
    planner: Callable[..., Planner],
    defaults: dict[str, Any],
    **declared: Any,
) -> PlannerCase:
    """One entry of `CASES`; `defaults` are arguments of the planner."""

    def build(horizon: int = 5, **changes: Any) -> Planner:
        return planner(horizon=horizon, **{**defaults, **changes})

    return PlannerCase(name, build, **declared)


class ProportionalPolicy(nn.Module):
    """Every action is against the first number of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(-0.5))

    def forward(self, state: Tensor) -> Tensor:
        return (self.gain * state[..., :1]).tanh()


def policy_case(
    name: str,
    planner: Callable[..., Planner],
    defaults: dict[str, Any],
    **declared: Any,
) -> PlannerCase:
    """A planner that a policy proposes to."""

    def build(horizon: int = 5, **changes: Any) -> Planner:
        policy = ProportionalPolicy()
        return planner(horizon=horizon, policy=policy, **{**defaults, **changes})

    return PlannerCase(name, build, action_dim=1, **declared)


class LinearDecoder(nn.Module):
    """One action from each latent number, a little mixed; covers [-0.7, 0.7]."""

    def __init__(self, horizon: int) -> None:
        super().__init__()
        mixed = torch.eye(horizon) + 0.2 * torch.eye(horizon).roll(1, dims=0)
        self.weight = nn.Parameter(0.9 * mixed)

    def forward(self, latent: Tensor) -> Tensor:
        return (latent @ self.weight.to(latent)).unsqueeze(-1)


def latent_case(
    name: str, planner: type[Planner], defaults: dict[str, Any], **declared: Any
) -> PlannerCase:
    """A planner that searches in a latent space; `defaults` are the inner one's."""

    def build(
        horizon: int = 5, gradient: dp.GradientStrategy | None = None, **changes: Any
    ) -> Planner:
        inner = planner(horizon=1, **{**defaults, **changes})
        decoder = LinearDecoder(horizon)
        return LatentActions(
            inner, decoder, horizon, horizon=horizon, gradient=gradient
        )

    return PlannerCase(name, build, action_dim=1, **declared)


def wrapped_case(
    name: str, planner: type[Planner], defaults: dict[str, Any], **declared: Any
) -> PlannerCase:
    """An augmented Lagrangian around a planner; `defaults` are the inner one's."""

    def build(
        horizon: int = 5, gradient: dp.GradientStrategy | None = None, **changes: Any
    ) -> Planner:
        inner = planner(horizon=horizon, **{**defaults, **changes})
        return AugmentedLagrangian(inner, outer_iterations=3, gradient=gradient)

    return PlannerCase(name, build, **declared)


class GaussianLatCo(dp.GaussianLatCo):
    """Gaussian LatCo for dynamics that cannot `predict`, as most in this suite.

    Their next state gets a small spread, the same everywhere.
    """

    def check_problem(self, problem: dp.PlanningProblem) -> None:
        LatCo.check_problem(self, problem)

    def collocation(self, request: PlanRequest, starts: int = 1) -> MomentProblem:
        found = super().collocation(request, starts)
        found.predict = partial(_steadily, found.problem)
        return found


def _steadily(problem: dp.PlanningProblem, *where: Tensor | None) -> Normal:
    mean = problem.step(*where)
    return Normal(mean, torch.full_like(mean, 1e-3), validate_args=False)


TRACKED = (dp.Unroll, dp.Truncated, dp.Detach)
ALL = (*TRACKED, dp.Implicit)

# Quadratic costs are met exactly only where the dynamics are: hard multipliers at once.
LATCO = {
    "dynamics_tolerance": 1e-10,
    "action_tolerance": 1e-10,
    "damping": 1e-6,
    "initial_multipliers": (1e4, 1e4),
    "multiplier_rule": LogarithmicRule.released(),
    "fall_back": True,
}

# Long steps, and multipliers that let them move the plan.
FIRST_ORDER = {
    "iterations": 300,
    "step_size": 0.5,
    "initial_multipliers": (20.0, 20.0),
    "multiplier_rules": (DualAscent(30.0), DualAscent(30.0)),
    "dynamics_tolerance": 5e-4,
    "fall_back": True,
}


class Window:
    """A model that sees the state itself."""

    def observe(self, state: Tensor, action: Tensor, observation: Tensor) -> Tensor:
        return observation

    def decode(self, state: Tensor) -> Tensor:
        return state


DUALS = {
    "multiplier_rule": MethodOfMultipliers(),
    "initial_multipliers": (1e3, 1e3),
}

# What two cases of one kind are held to.
EXACT = {
    "optimum_gap": 1e-8,
    "warm_gap": 1e-8,
    "gradients": ALL,
    "action_constraints": False,
}
REGULATOR = {**EXACT, "stochastic": False}
GAUSS_NEWTON = {**EXACT, "learnable": (("damping", 0.1),)}
# Adam's steps do not shrink: with other noise the same settings end 2 to 13 % above.
BY_ADAM = {
    "optimum_gap": 0.15,
    "warm_gap": 0.02,
    "finds_clock": False,
    "gradients": TRACKED,
    "learnable": (("step_size", 0.05),),
    "feasible_throughout": False,
}

# So many that searches meet their gap with any noise, not with one that was lucky.
MANY = {"num_samples": 256, "num_elites": 24, "iterations": 10}

CASES = [
    case(
        "CEM",
        CEM,
        MANY,
        warm_gap=0.02,
    ),
    case(
        "CEM-coloured",
        CEM,
        {**MANY, "noise_exponent": 2.0},
        optimum_gap=0.04,
        warm_gap=0.06,
    ),
    case(
        "MPPI",
        MPPI,
        {"num_samples": 512, "iterations": 10, "temperature": 0.02},
        optimum_gap=0.12,
        warm_gap=0.04,
        gradients=TRACKED,
        learnable=(("temperature", 0.3), ("initial_std", 0.5)),
        ball_gap=0.03,
    ),
    case(
        "MPPI-fixed-std",
        MPPI,
        {
            "num_samples": 2048,
            "iterations": 10,
            "temperature": 0.02,
            "fixed_std": True,
            "initial_std": 0.3,
        },
        optimum_gap=0.08,
        warm_gap=0.08,
        gradients=TRACKED,
        learnable=(("temperature", 0.3), ("initial_std", 0.5)),
        ball_gap=0.005,
    ),
    case(
        "DCEM",
        DCEM,
        {**MANY, "temperature": 0.05},
        warm_gap=0.02,
        gradients=TRACKED,
        learnable=(("temperature", 0.3), ("initial_std", 0.5)),
        ball_gap=0.01,
    ),
    case(
        "DCEM-straight-through",
        DCEM,
        {**MANY, "straight_through": True},
        warm_gap=0.02,
        gradients=TRACKED,
        learnable=(("temperature", 0.3), ("initial_std", 0.5)),
        estimator=True,
    ),
    latent_case(
        "LatentActions-CEM",
        CEM,
        {**MANY, "num_samples": 512, "iterations": 20},
        warm_gap=0.06,
    ),
    latent_case(
        "LatentActions-DCEM",
        DCEM,
        {**MANY, "num_samples": 512, "iterations": 20, "temperature": 0.02},
        warm_gap=0.02,
        gradients=(dp.Unroll, dp.Detach),
    ),
    case(
        "ShootingGD",
        ShootingGD,
        {"iterations": 100, "step_size": 0.05, "num_starts": 2},
        gradients=TRACKED,
        learnable=(("step_size", 0.05),),
        ball_gap=0.002,
    ),
    case(
        "GradMPC",
        GradMPC,
        {"iterations": 120, "num_starts": 4, "step_size": 0.1},
        optimum_gap=0.02,
        gradients=TRACKED,
        learnable=(("step_size", 0.02),),
    ),
    case(
        "GradMPC-rmsprop",
        GradMPC,
        {
            "iterations": 60,
            "num_starts": 4,
            "step_size": 0.02,
            "optimizer": "rmsprop",
            "clip": 1.0,
        },
        gradients=TRACKED,
        learnable=(("step_size", 0.02),),
        ball_gap=0.015,
    ),
    policy_case(
        "PolicyGradMPC",
        PolicyGradMPC,
        {
            "iterations": 100,
            "num_starts": 4,
            "step_size": 0.1,
            "std": 0.3,
            "init": "sample",
        },
    ),
    case("ILQR", ILQR, {"iterations": 10}, **REGULATOR),
    case("ILQR-sweep", ILQR, {"iterations": 10, "form": "sweep"}, **REGULATOR),
    case("ShootingGN", ShootingGN, {"iterations": 15, "num_starts": 2}, **GAUSS_NEWTON),
    case(
        "ShootingGN-sweep",
        ShootingGN,
        {"iterations": 15, "num_starts": 2, "form": "sweep"},
        **GAUSS_NEWTON,
    ),
    case(
        "LatCo",
        LatCo.paper,
        {"iterations": 60, **LATCO},
        gradients=ALL,
        learnable=(("damping", 1e-2),),
        feasible_throughout=False,
    ),
    case(
        "LatCo-cholesky",
        LatCo.paper,
        {"iterations": 60, "solver": BlockCholeskySolver(), **LATCO},
        gradients=ALL,
        learnable=(("damping", 1e-2),),
        feasible_throughout=False,
    ),
    case(
        "LatCo-theseus",
        LatCo.paper,
        {"iterations": 60, "engine": "theseus", **LATCO},
        gradients=ALL,
        learnable=(("damping", 1e-2),),
        compiled=False,
        vmapped=False,
        feasible_throughout=False,
        needs="theseus",
    ),
    case(
        "GaussianLatCo",
        GaussianLatCo.paper,
        {"iterations": 40, "num_samples": 4, **LATCO},
        gradients=TRACKED,
        learnable=(("damping", 1e-2),),
        feasible_throughout=False,
    ),
    case("FirstOrderLatCo", FirstOrderLatCo.paper, FIRST_ORDER, **BY_ADAM),
    case(
        "ImageCollocation",
        ImageCollocation.paper,
        {"model": Window(), **FIRST_ORDER},
        **BY_ADAM,
    ),
    case(
        "LatCo-duals",
        LatCo,
        {"iterations": 60, **DUALS},
        optimum_gap=1e-8,
        gradients=ALL,
        learnable=(("damping", 1e-2),),
        feasible_throughout=False,
    ),
    wrapped_case(
        "AugmentedLagrangian-CEM",
        CEM,
        MANY,
        warm_gap=0.02,
        feasible_throughout=False,
    ),
    wrapped_case(
        "AugmentedLagrangian-ILQR",
        ILQR,
        {"iterations": 10},
        stochastic=False,
        optimum_gap=1e-8,
        warm_gap=1e-8,
        gradients=(dp.Unroll, dp.Detach),
        feasible_throughout=False,
        action_constraints=False,
    ),
]

# The same planners where actions are choices, or some of their numbers are.
SAMPLERS = {"num_samples": 64, "iterations": 8}
CHOOSING = [
    case(
        "CEM-choices",
        CEM,
        {**SAMPLERS, "num_elites": 8},
        problem=gear_problem,
    ),
    case(
        "DCEM-mixed",
        DCEM,
        {**SAMPLERS, "num_elites": 8, "temperature": 0.1},
        gradients=TRACKED,
        estimator=True,
        problem=mixed_gear_problem,
    ),
    case(
        "iCEM-mixed",
        ICEM,
        {**SAMPLERS, "num_elites": 8},
        problem=mixed_gear_problem,
    ),
]

# Planners of other people, of which the library knows nothing.
EXAMPLES = [
    case(
        "iCEM",
        ICEM,
        MANY,
        optimum_gap=0.04,
        warm_gap=0.06,
    ),
    policy_case(
        "PolicyMPPI",
        PolicyMPPI,
        {
            "num_samples": 200,
            "num_elites": 16,
            "num_proposals": 8,
            "iterations": 10,
            "temperature": 0.1,
            "min_std": 0.01,
            "max_std": 1.0,
        },
    ),
    policy_case("DreamMPC", dream_mpc, {"iterations": 60}),
    case(
        "GRASP",
        GRASP,
        {"iterations": 20, "step_size": 0.1, "sync_every": 20, "sync_steps": 250},
        feasible_throughout=False,
    ),
]


def each_planner_that(
    holds: Callable[[PlannerCase], bool], others: Sequence[PlannerCase] = ()
) -> pytest.MarkDecorator:
    """Run a test for each case that `holds`, and others, given to it as `case`."""
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(
                case,
                id=case.name,
                marks=pytest.mark.skipif(
                    bool(case.missing), reason=f"needs the package {case.missing}"
                ),
            )
            for case in (*CASES, *EXAMPLES, *others)
            if holds(case)
        ],
    )


each_planner = each_planner_that(lambda case: True)
each_planner_and_space = each_planner_that(lambda case: True, CHOOSING)


def parameter(value: float) -> nn.Parameter:
    """A learnable number in float64."""
    return nn.Parameter(torch.tensor(value, dtype=torch.float64))
