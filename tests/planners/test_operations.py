"""How many operations of torch a plan takes: small problems wait for nothing else.

Counted as they are dispatched, once for a horizon and once for a longer one, so that
what grows with the horizon shows. The budgets are what was reached, with a tenth to
spare for other versions of torch.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import diffplan as dp
from diffplan.functional._condensed import condensed_step
from diffplan.functional.box_lqr import IncrementalLQR, limited_sweep
from diffplan.objectives import ActionPenalty, GoalDistance, SumOfResiduals
from diffplan.objectives._expansion import expand

SHORT, LONG = 8, 24
S, A = 4, 2


class Counting(TorchDispatchMode):
    """Counts what is dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def counted(run: Callable[[], object]) -> int:
    with torch.no_grad():
        run()  # checks at the border are made once
        with Counting() as counting:
            run()
    return counting.count


def drawn(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def problem() -> dp.PlanningProblem:
    goal = GoalDistance(drawn(S))
    bound = torch.full((A,), 100.0, dtype=torch.float64)  # is met by nothing
    return dp.PlanningProblem(
        dp.models.LinearDynamics(0.3 * drawn(S, S), drawn(S, A)),
        SumOfResiduals([goal, ActionPenalty(1.0)]),
        dp.Box(-bound, bound),
    )


# `early_exit` allows them to look at numbers, which a counting mode otherwise forbids.
ONCE: dict[str, Any] = {
    "iterations": 1,
    "early_exit": True,
    "gradient": dp.Detach(),
    "step_sizes": (1.0,),
}
PLANS = {
    "ILQR, sweep": (lambda T: dp.ILQR(T, form="sweep", **ONCE), 1010, 92),
    "ILQR, condensed": (lambda T: dp.ILQR(T, form="condensed", **ONCE), 650, 8),
    "ShootingGN, sweep": (
        lambda T: dp.ShootingGN(T, form="sweep", damping=1e-6, **ONCE),
        1280,
        91,
    ),
    "ShootingGN, condensed": (
        lambda T: dp.ShootingGN(T, form="condensed", damping=1e-6, **ONCE),
        980,
        9,
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_keeps_its_budget(name: str) -> None:
    planner, budget, each = PLANS[name]
    given, state = problem(), drawn(1, S)
    plans = [planner(horizon) for horizon in (SHORT, LONG)]
    short, long = (counted(lambda plan=plan: plan(given, state)) for plan in plans)
    assert short <= budget
    assert long - short <= each * (LONG - SHORT)


@pytest.mark.parametrize(("limit", "budgets"), [(1e3, (43, 4)), (0.05, (90, 12))])
def test_a_step_of_the_model_keeps_its_budget(
    limit: float, budgets: tuple[int, int]
) -> None:
    """Where limits hold actions, and where they do not."""

    def regulator(horizon: int) -> IncrementalLQR:
        size = A + S
        form = torch.eye(size, dtype=torch.float64).repeat(1, horizon, 1, 1)
        return IncrementalLQR(
            0.3 * drawn(1, horizon, S, A),
            0.3 * drawn(1, horizon, S, S),
            form,
            drawn(1, horizon, size),
            form[:, 0, :S, :S],
            drawn(1, S),
        )

    damping = torch.zeros(1, dtype=torch.float64)
    for solve, budget in zip((limited_sweep, condensed_step), budgets, strict=True):
        counts = []
        for horizon in (SHORT, LONG):
            model, high = regulator(horizon), torch.full((1, horizon, A), limit)
            bounds = (-high.double(), high.double(), damping)
            counts.append(
                counted(lambda m=model, b=bounds, s=solve: s(m, *b, look=True))
            )
        assert counts[1] - counts[0] <= budget * (LONG - SHORT)


def test_expansions_take_as_many_operations_whatever_the_horizon() -> None:
    objective = problem().objective
    counts = [
        counted(
            lambda T=T: expand(
                objective, drawn(1, T + 1, S), drawn(1, T, A), gauss_newton=True
            )
        )
        for T in (SHORT, LONG)
    ]
    assert counts[0] == counts[1] <= 60
