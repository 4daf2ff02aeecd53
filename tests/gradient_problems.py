"""Three kinds of problems whose every number can be a leaf: for tests of gradients."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from planner_cases import PlannerCase
from problems import PendulumDynamics, QuadraticCost
from torch import Tensor

import diffplan as dp
from diffplan.models import RSSM
from diffplan.models.analytic import Cartpole
from diffplan.objectives import ActionPenalty, SoftplusReward, SumOfResiduals
from diffplan.planners.collocation import FixedMultiplier

HORIZON = 3

# Few steps on few samples for what is differentiated as it was computed …
QUICK = {
    "MPPI": {"num_samples": 6, "iterations": 3, "temperature": 1.0},
    "DCEM": {"num_samples": 6, "num_elites": 2, "iterations": 3},
    "ShootingGD": {"num_starts": 2, "iterations": 3},
    "GradMPC": {"num_starts": 2, "iterations": 3, "step_size": 0.02},
    "LatCo": {"iterations": 3, "damping": 1e-2, "initial_multipliers": (3.0, 3.0)},
    "GaussianLatCo": {
        "iterations": 2,
        "damping": 1e-2,
        "initial_multipliers": (3.0, 3.0),
    },
    "ILQR": {"iterations": 2},
    "ShootingGN": {"iterations": 2},
    "FirstOrderLatCo": {"iterations": 3, "dual_every": 2},
    "ImageCollocation": {"iterations": 3, "dual_every": 2},
}
# … and enough to come near a minimum where that is differentiated. LatCo's multipliers
# are constants for `Implicit`, so they must not follow the tensors that are moved.
THOROUGH = {
    "ILQR": {"iterations": 4},
    "ShootingGN": {"iterations": 6, "num_starts": 1},
    "LatCo": {
        "iterations": 8,
        "multiplier_rule": FixedMultiplier(),
        "initial_multipliers": (30.0, 30.0),
        "damping": 1e-3,
    },
}


def settings(table: dict[str, dict], case: PlannerCase) -> dict:
    """Those of the planner's class, whatever its variant is called."""
    return table.get(type(case.build()).__name__, {})


@dataclass(frozen=True)
class GradientProblem:
    """A problem as a function of its numbers.

    Attributes:
        name: Shown by pytest.
        make: From values of "dynamics", "objective" and "bounds" to the problem.
        values: Where to differentiate.
        state: Start states `[B, S]`.
    """

    name: str
    make: Callable[[Mapping[str, Tensor]], dp.PlanningProblem]
    values: Mapping[str, Tensor]
    state: Tensor

    def with_values(self, **changed: Tensor) -> dp.PlanningProblem:
        """The problem with some values replaced."""
        return self.make({**self.values, **changed})


def box(half_width: Tensor) -> dp.Box:
    """Bounds that carry the graph of their half width `[1]`."""
    return dp.Box(-half_width, 1.1 * half_width)


def double(values: list[float]) -> Tensor:
    """A tensor in float64."""
    return torch.tensor(values, dtype=torch.float64)


def quadratic(goal: Tensor, effort: float) -> QuadraticCost:
    """A quadratic cost whose goal carries a graph."""
    cost = QuadraticCost(goal.detach(), effort)
    del cost.goal  # a parameter; a given tensor takes its place
    cost.goal = goal
    return cost


def linear_quadratic(half_width: float) -> GradientProblem:
    """Push a point to a goal; `half_width` decides whether bounds are active."""

    def make(values: Mapping[str, Tensor]) -> dp.PlanningProblem:
        def step(state: Tensor, action: Tensor) -> Tensor:
            drag, push = values["dynamics"]
            place, speed = state.split(1, dim=-1)
            return torch.cat(
                [place + 0.3 * speed, (1 - drag) * speed + push * action], dim=-1
            )

        return dp.PlanningProblem(
            step, quadratic(values["objective"], 0.1), box(values["bounds"])
        )

    return GradientProblem(
        f"linear-quadratic-{half_width}",
        make,
        {
            "dynamics": double([0.1, 0.4]),
            "objective": double([0.5, 0.1]),
            "bounds": double([half_width]),
        },
        double([[0.1, -0.3], [-0.4, 0.2]]),
    )


def cartpole(half_width: float = 3.0) -> GradientProblem:
    """Hold a pole upright; forces in newtons."""

    def make(values: Mapping[str, Tensor]) -> dp.PlanningProblem:
        gravity, length = values["dynamics"]
        return dp.PlanningProblem(
            Cartpole(gravity=gravity, half_length=length),
            quadratic(values["objective"], 0.02),
            box(values["bounds"]),
        )

    angle = double([0.1, -0.15])
    state = torch.stack(
        [0.1 * angle, -angle, angle.cos(), angle.sin(), 0.5 * angle], dim=-1
    )
    return GradientProblem(
        "cartpole",
        make,
        {
            "dynamics": double([9.8, 0.5]),
            "objective": double([0.0, 0.0, 1.0, 0.0, 0.0]),
            "bounds": double([half_width]),
        },
        state,
    )


def small_rssm(half_width: float = 1.0) -> GradientProblem:
    """Seek reward in the latent space of an untrained RSSM."""
    torch.manual_seed(3)
    model = RSSM(
        observation_shape=(2,),
        action_dim=1,
        belief_size=4,
        state_size=2,
        embedding_size=3,
        hidden_size=4,
        reward_layers=1,
        reward_hidden=4,
        vector_layers=1,
        vector_hidden=3,
    ).double()
    model.requires_grad_(False)
    weight = next(p for n, p in model.named_parameters() if "weight_hh" in n)
    name = next(n for n, _ in model.named_parameters() if "weight_hh" in n)

    def make(values: Mapping[str, Tensor]) -> dp.PlanningProblem:
        scale = values["dynamics"]

        def step(state: Tensor, action: Tensor) -> Tensor:
            changed = {name: scale * weight}
            return torch.func.functional_call(model, changed, (state, action))

        wish = values["objective"]
        return dp.PlanningProblem(
            step,
            SumOfResiduals(
                [
                    SoftplusReward(lambda state: wish * model.reward(state)),
                    ActionPenalty(0.3),
                ]
            ),
            box(values["bounds"]),
        )

    generator = torch.Generator().manual_seed(4)
    return GradientProblem(
        "rssm",
        make,
        {
            "dynamics": torch.ones_like(weight),
            "objective": double([2.0]).squeeze(0),
            "bounds": double([half_width]),
        },
        0.3 * torch.randn(2, model.state_dim, dtype=torch.float64, generator=generator),
    )


def pendulum_near_upright() -> GradientProblem:
    """Balance a pendulum; the gravity is a leaf."""

    def make(values: Mapping[str, Tensor]) -> dp.PlanningProblem:
        dynamics = PendulumDynamics()

        def step(state: Tensor, action: Tensor) -> Tensor:
            changed = {"gravity": values["dynamics"][0]}
            return torch.func.functional_call(dynamics, changed, (state, action))

        return dp.PlanningProblem(
            step, quadratic(values["objective"], 0.05), box(values["bounds"])
        )

    return GradientProblem(
        "pendulum",
        make,
        {
            "dynamics": double([5.0]),
            "objective": double([0.1, 0.0]),
            "bounds": double([1.0]),
        },
        double([[0.3, 0.1], [-0.2, 0.3]]),
    )
