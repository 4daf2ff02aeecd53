"""Policy + Grad-MPC: what a policy would do, improved by descending the objective."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffplan._checks import require_shape, require_share
from diffplan._user_functions import ask
from diffplan.capabilities import policy_of
from diffplan.gradients import CONSTANT, Detach, GradientStrategy
from diffplan.planners.gradient.grad_mpc import GradMPC
from diffplan.planners.request import PlanRequest
from diffplan.problem import PlanningProblem

_Init = Literal["mode", "sample"]
"""Where the first descent begins: the policy's action, or a sample of it."""


_CANDIDATES = "candidates"
"""The entry of a plan's memory with what its starts became, `[B, N, T, A]`."""


class PolicyGradMPC(GradMPC):
    """Gradient descent that begins with the actions of a policy.

    With the value as objective, `NegativeReturn(value)`, horizon 1 and one start that
    is u ← u + α ∇_u V(f(x, u)), the paper's eq. 6. One of several starts is what the
    policy returns, the others are samples of it, and a warm start is one more.

    Plans are constants (`Detach`), for acting: their starts depend on the policy, the
    model and the state, and no gradient flows through that.

    Args:
        horizon: T, number of planned actions.
        policy: `state […, S] → action […, A]`, or a model that has a `policy`. Samples
            are those of its `sample(state, noise)`, if it has one (as has
            `diffplan.models.Actor`), else its actions with noise of standard deviation
            `std`. A module becomes a submodule.
        num_starts: N, how often the policy is asked.
        iterations: Gradient steps. The paper does not say how many.
        step_size: α. Nor this.
        init: The first start is the "mode", what the policy returns, or a "sample".
        std: See `policy`.
        reuse: ρ, the share of what the last plan's starts became, shifted in time with
            its warm start, in the new ones (Dream-MPC has 0.1).
        **options: Others of `GradMPC`.

    Raises:
        ArgumentError: an argument is out of range, or the model has no policy.
        UnsupportedGradientError: `gradient` is not supported.

    References:
        S V et al. 2023, "Gradient-based Planning with World Models"
        (arXiv:2312.17227), section 6; of `reuse`, Spieler and Behnke 2026, "Dream-MPC"
        (arXiv:2605.04568), section 4.

    Example:
        >>> import diffplan as dp
        >>> problem = dp.PlanningProblem(
        ...     lambda state, action: state + action,
        ...     dp.objectives.NegativeReturn(lambda state: -((state[..., 0] - 2) ** 2)),
        ...     dp.Box([-1.0], [1.0]),
        ... )
        >>> planner = PolicyGradMPC(1, torch.zeros_like, iterations=1)
        >>> planner(problem, torch.ones(1, 1)).action  # 0 + 0.1 · 2 (2 - 1)
        tensor([[0.2000]])
    """

    supported_gradients: ClassVar = {Detach: CONSTANT}
    learnable_numbers: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        horizon: int,
        policy: Callable[[Tensor], Tensor] | object,
        *,
        num_starts: int = 1,
        iterations: int = 10,
        step_size: float = 0.1,
        init: _Init = "mode",
        std: float = 0.1,
        reuse: float = 0.0,
        gradient: GradientStrategy | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            horizon,
            num_starts=num_starts,
            iterations=iterations,
            step_size=step_size,
            gradient=gradient,
            **options,
        )
        self.policy: Any = policy_of(policy)
        self.init, self.std = init, std
        self.reuse = require_share("reuse", reuse)

    def starting_points(self, request: PlanRequest) -> Tensor:
        """Return the warm start, if there is one, and what the policy does."""
        problem, warm_start = request.problem, request.warm_start
        with torch.no_grad():
            points = follow(self._act, problem, request.state, request.drawn())
        # what is NaN, as where the model fails, is the middle of the box
        center = problem.action_space.aligned(points).center
        points = torch.where(torch.isfinite(points), points, center)
        if warm_start is not None:
            known = warm_start.actions.unsqueeze(1)
            if self.reuse and _CANDIDATES in warm_start.memory:
                before = warm_start.memory[_CANDIDATES]
                name = f"warm_start.memory[{_CANDIDATES!r}]"
                require_shape(name, before, points.shape[1:], "must be [N, T, A]")
                points = points.lerp(before, self.reuse)
            points = torch.cat([known, points], dim=1)
        return problem.project(points)

    def remember(self, candidates: Tensor) -> dict[str, Tensor]:
        """Keep what the policy's proposals became, if they are used again."""
        return {_CANDIDATES: candidates[:, -self.num_starts :]} if self.reuse else {}

    def _act(self, state: Tensor, noise: Tensor) -> Tensor:
        """Return the policy's actions in the states `[B, N, S]` of all starts."""
        if self.init == "sample":
            return self._sample(state, noise)
        mode = actions_of(self.policy, state[:, :1], size=noise.shape[-1])
        if self.num_starts == 1:
            return mode
        return torch.cat([mode, self._sample(state[:, 1:], noise[:, 1:])], dim=1)

    def _sample(self, state: Tensor, noise: Tensor) -> Tensor:
        size = noise.shape[-1]
        if hasattr(self.policy, "sample"):
            return actions_of(self.policy.sample, state, noise, size=size)
        return actions_of(self.policy, state, size=size) + self.std * noise


def actions_of(
    policy: Callable[..., Tensor], state: Tensor, *others: Tensor, size: int = -1
) -> Tensor:
    """Return what a policy does in states `[…, S]`: one action `[…, A]` for each.

    Args:
        policy: `state → action`; it may take more.
        state: `[…, S]`.
        others: What else it takes, such as noise.
        size: A; -1 stands for any.

    Raises:
        ShapeError, TensorTypeError: the policy fails, or returns other dimensions,
            which would be broadcast, or another dtype.

    Example:
        >>> actions_of(torch.zeros_like, torch.ones(3, 2), size=2).shape
        torch.Size([3, 2])
    """
    expected = (*state.shape[:-1], size)
    advice = "a policy takes states with any leading dimensions"
    return ask("policy:", policy, state, *others, expected=expected, advice=advice)


def follow(
    act: Callable[[Tensor, Tensor], Tensor],
    problem: PlanningProblem,
    state: Float[Tensor, "B S"],
    noise: Float[Tensor, "B N some=T _"],
) -> Tensor:
    """Return what a policy does in the model, as candidates `[B, N, T, A]`.

    Args:
        act: `(state […, S], noise […, A]) → action […, A]`.
        problem: Its dynamics are followed; every action is brought into its box.
        state: `[B, S]`.
        noise: For `act`, `[B, N, T, A]`.

    Raises:
        ShapeError, TensorTypeError: see `actions_of`.
    """
    actions: list[Tensor] = []
    state = state.unsqueeze(1).expand(-1, noise.shape[1], -1)
    size = problem.action_space.dim
    times = problem.times(0, noise.shape[2], state)  # None but for timed dynamics
    for step in range(noise.shape[2]):
        action = actions_of(act, state, noise[..., step, :], size=size)
        actions.append(problem.project(action, step))
        if step + 1 < noise.shape[2]:
            time = None if times is None else times[step]
            state = problem.step(state, actions[-1], time)
    return torch.stack(actions, dim=-2)
