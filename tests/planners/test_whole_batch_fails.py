"""A batch that fails as a whole has the gradient zero, as each of its elements has."""

from collections.abc import Callable

import pytest
import torch
from planner_cases import PlannerCase, each_planner_that
from torch import Tensor, nn

import diffplan as dp


class Root(torch.autograd.Function):
    """√x, whose backward takes a cotangent of none for zeros, as most own functions."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sqrt()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # noqa: ANN001
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> Tensor:  # noqa: ANN001
        (root,) = ctx.saved_tensors
        return cotangent / (2 * root)


class Rooted(nn.Module):
    """A point that is pushed the harder, the farther it is; there is none below -1."""

    def __init__(self, root: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.root = root

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        far = self.root(self.gain * (state[..., :1] + 1))
        return state + torch.cat([0.1 * state[..., 1:], far * action], dim=-1)


@pytest.mark.filterwarnings("ignore::diffplan.errors.NumericsWarning")
@pytest.mark.parametrize(
    ("root", "batch"), [(torch.sqrt, 1), (Root.apply, 3)], ids=["torch", "own"]
)
@each_planner_that(
    lambda case: (
        dp.Unroll in case.gradients
        and case.action_dim in (None, 1)
        and case.problem.__name__ == "point_mass_problem"
    )
)
def test_the_gradient_is_zero(
    case: PlannerCase, root: Callable[[Tensor], Tensor], batch: int
) -> None:
    model = Rooted(root)
    goal = dp.objectives.GoalDistance(torch.tensor([0.5, 0.0], dtype=torch.float64))
    problem = dp.PlanningProblem(model, goal, dp.Box([-1.0], [1.0]))
    state = torch.full((batch, 2), -3.0, dtype=torch.float64)
    strategies = [dp.Unroll()]
    # Implicit gradients of LatCo pass through what an own function makes of zeros.
    if dp.Implicit in case.gradients and root is torch.sqrt:
        strategies.append(dp.Implicit(on_failure="zero"))
    for strategy in strategies:
        plan = case.build(2, gradient=strategy, iterations=2)(problem, state)
        assert (plan.status == int(dp.Status.NON_FINITE)).all()
        (slope,) = torch.autograd.grad(
            plan.actions.sum() + plan.cost.nan_to_num(0.0).sum() + 0 * model.gain,
            model.gain,
        )
        assert float(slope) == 0.0
