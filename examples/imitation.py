"""Imitation through the controller: learn a pendulum from an expert's actions alone.

An expert balances a pendulum by optimal control. The learner sees start states and the
expert's actions, nothing else: neither the states that follow, nor rewards. It has a
pendulum of unknown gravity and mass, and a cost with an unknown price of effort, plans
with them from the same starts, and descends the difference of the actions *through the
planner*. Three planners, three kinds of gradient:

* iLQR and LatCo by the implicit-function theorem at their solution,
* DCEM by unrolling its iterations.

Run `python examples/imitation.py`.
"""

import torch
from torch import Tensor, nn

import diffplan as dp
from diffplan.models.analytic import Pendulum
from diffplan.objectives import ResidualObjective
from diffplan.planners.collocation import FixedMultiplier

HORIZON = 8
TRUTH = {"gravity": 9.8, "mass": 1.0, "effort": 0.03}
GUESS = {"gravity": 5.0, "mass": 1.6, "effort": 0.1}


class Balance(ResidualObjective):
    """½ Σ (angle² + 0.1 velocity² + effort · torque²), the end counts ten times."""

    def __init__(self, effort: Tensor) -> None:
        super().__init__()
        self.effort = effort

    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        """Return [angle, √0.1 velocity, √effort torque]."""
        return torch.cat([_weighted(state), self.effort.sqrt() * action], dim=-1)

    def terminal_residual(self, state: Tensor) -> Tensor:
        """Return √10 [angle, √0.1 velocity]."""
        return 10**0.5 * _weighted(state)


class Controller(nn.Module):
    """A planner and what it believes: the logarithm of each positive number."""

    def __init__(self, planner: dp.Planner, values: dict[str, float]) -> None:
        super().__init__()
        self.planner = planner
        self.logarithms = nn.ParameterDict(
            {
                name: nn.Parameter(torch.tensor(value, dtype=torch.float64).log())
                for name, value in values.items()
            }
        )

    def values(self) -> dict[str, Tensor]:
        """Return what the controller believes."""
        return {name: value.exp() for name, value in self.logarithms.items()}

    def forward(self, state: Tensor) -> Tensor:
        """Plan actions `[B, T, 1]` from states `[B, 2]`."""
        believed = self.values()
        problem = dp.PlanningProblem(
            Pendulum(gravity=believed["gravity"], mass=believed["mass"]),
            Balance(believed["effort"]),
            dp.Box([-20.0], [20.0]),
        )
        return self.planner(problem, state).actions


def planners() -> dict[str, dp.Planner]:
    """Return the learners' planners."""
    return {
        "iLQR, implicit": dp.ILQR(HORIZON, iterations=20, gradient=dp.Implicit()),
        "LatCo, implicit": dp.LatCo(
            HORIZON,
            iterations=15,
            multiplier_rule=FixedMultiplier(),
            initial_multipliers=(1e4, 1e4),
            damping=1e-3,
            normalize=False,  # the dynamics are known to be smooth: go fast
            init="rollout",
            gradient=dp.Implicit(),
        ),
        "DCEM, unrolled": dp.DCEM(
            HORIZON,
            num_samples=200,
            num_elites=40,
            iterations=50,
            temperature=0.1,
            initial_std=8.0,
        ),
    }


def expert(state: Tensor) -> Tensor:
    """Return the expert's actions `[B, T, 1]`."""
    with torch.no_grad():
        return Controller(dp.ILQR(HORIZON, gradient=dp.Detach()), TRUTH)(state)


def starts(count: int = 16) -> Tensor:
    """Return states `[count, 2]`: angles up to ±1.2 rad, speeds up to ±2 rad/s."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    return (2 * drawn - 1) * torch.tensor([1.2, 2.0], dtype=torch.float64)


def imitate(planner: dp.Planner, steps: int = 12) -> dict[str, float]:
    """Return the relative error of each number after imitating the expert."""
    state = starts()
    actions = expert(state)
    learner = Controller(planner, GUESS)
    optimizer = torch.optim.LBFGS(
        learner.logarithms.values(),
        max_iter=steps,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        difference = (learner(state) - actions).square().mean()
        difference.backward()
        return difference

    optimizer.step(loss)
    return {
        name: abs(float(value.detach()) / TRUTH[name] - 1)
        for name, value in learner.values().items()
    }


def _weighted(state: Tensor) -> Tensor:
    return state * torch.tensor([1.0, 0.1**0.5], dtype=state.dtype)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, planner in planners().items():
        errors = imitate(planner)
        words = ", ".join(f"{key} {100 * error:.2f} %" for key, error in errors.items())
        print(f"{name}: errors {words}")
