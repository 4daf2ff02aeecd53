"""Planning in a latent space of action sequences: a decoder turns a point into actions.

Long action sequences have many dimensions, few of which matter. A decoder that maps a
point z of a small box to all T actions lets any planner search there instead: the
problem it sees has one step, whose action is z, and the cost of the decoded actions.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffplan._checks import require_count, require_shape
from diffplan._user_functions import ask
from diffplan.constraints._box import require_vector
from diffplan.errors import ArgumentError
from diffplan.functional._isolation import StandIns
from diffplan.gradients import CONSTANT, Derivatives, Detach, GradientStrategy, Unroll
from diffplan.objectives._base import StageObjective
from diffplan.plan import Plan
from diffplan.planners._compiling import start_plan
from diffplan.planners._derivatives import require_derivatives
from diffplan.planners.base import Planner, Solution
from diffplan.planners.request import PlanRequest
from diffplan.problem import Box, PlanningProblem

_DECODED = Derivatives(
    order=2, wrt=("dynamics", "objective", "state", "bounds", "planner")
)
"""All but the warm start's actions: what is warm-started is the latent point. The
planner's own numbers are those of the decoder, and of the inner planner."""


class LatentActions(Planner):
    """Any planner, searching in the latent space of a decoder.

    The inner planner minimises the cost of the decoded actions, projected onto the
    allowed ones, from the given state. With `dp.DCEM(1, …)` inside, a loss of the plan
    trains the decoder through the search, so that the latent space becomes one that is
    easy to search. The decoder is a submodule: its parameters are the planner's.

    With `Detach()`, as it is with `dp.CEM(1, …)` inside, the actions are constants. To
    train the decoder with the point that was found held fixed (the paper's τ = 0),
    decode that point again::

        plan = planner(problem, state)
        actions = planner.decode(problem, plan.diagnostics["latent"])
        loss = problem.cost(state, actions).mean()

    `plan.diagnostics` are those of the inner planner and `latent` `[…, d]`;
    `plan.memory` is that of the inner planner and `latent` `[…, 1, d]`, where a warm
    start begins (it stays as it is when the plan is shifted in time).

    Args:
        planner: Searches in the latent space; horizon 1.
        decoder: `z […, d] → actions […, T, A]` for any leading dimensions, a module
            or any callable. What leaves the allowed actions is projected onto them.
        latent_space: The box `[d]` that is searched and that limits every point that
            the decoder sees; a number d stands for [-1, 1]^d.
        horizon: T, number of planned actions.
        gradient: `Unroll()` differentiates through the decoder, and through the inner
            planner by that planner's own strategy (and to no higher order);
            `Detach()`. None stands for `Detach()` if that is the inner planner's
            strategy, else `Unroll()`.

    Raises:
        TensorTypeError: the planner is none, or the decoder is not callable.
        ArgumentError: the planner's horizon is not 1, or a number is out of range.
        UnsupportedGradientError: `gradient` is another strategy, or `Unroll()` of a
            planner that detaches.

    References:
        Amos and Yarats 2020, "The Differentiable Cross-Entropy Method"
        (arXiv:1909.12830), section 4.2 and algorithm 2.

    Example:
        >>> import torch, diffplan as dp
        >>> problem = dp.PlanningProblem(
        ...     dynamics=lambda state, action: state + action,
        ...     objective=lambda states, actions: (states[..., -1, 0] - 1).square(),
        ...     action_space=dp.Box([-1.0], [1.0]),
        ... )
        >>> decoder = torch.nn.Sequential(
        ...     torch.nn.Linear(2, 5), torch.nn.Unflatten(-1, (5, 1))
        ... )
        >>> planner = dp.LatentActions(dp.DCEM(1), decoder, latent_space=2, horizon=5)
        >>> plan = planner(problem, torch.zeros(3, 1))
        >>> plan.actions.shape, plan.diagnostics["latent"].shape
        (torch.Size([3, 5, 1]), torch.Size([3, 2]))
    """

    supported_gradients: ClassVar = {Unroll: _DECODED, Detach: CONSTANT}
    plans_under_noise: ClassVar[bool] = True

    def __init__(
        self,
        planner: Planner,
        decoder: Callable[[Tensor], Tensor],
        latent_space: Box | int,
        *,
        horizon: int,
        gradient: GradientStrategy | None = None,
    ) -> None:
        super().__init__()
        if planner.horizon != 1:
            raise ArgumentError(
                "planner: expected horizon 1 (its one action is the latent point), "
                f"got {type(planner).__name__} with horizon {planner.horizon}"
            )
        if not isinstance(latent_space, Box):
            size = require_count("latent_space", latent_space)
            latent_space = Box([-1.0] * size, [1.0] * size)
        require_vector("latent_space", latent_space)
        self.horizon = require_count("horizon", horizon)
        self.planner = planner
        self.needs_derivatives = planner.needs_derivatives
        self.decoder = decoder
        self.latent_space = latent_space
        # To the order that the inner planner promises for its own strategy.
        order = planner.supported_gradients[type(planner.gradient)].order
        promises: dict[type[GradientStrategy], Derivatives] = {Detach: CONSTANT}
        if order > 0:
            promises = {Unroll: replace(_DECODED, order=order), **promises}
        self.supported_gradients = promises  # type: ignore[misc]
        self.configure_gradient(gradient, planner)

    def _apply(
        self, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> "LatentActions":
        """Move the latent space with the parameters, its bounds still in double."""
        low = self.latent_space.low
        device = fn(torch.zeros((), device=low.device)).device
        self.latent_space = self.latent_space.to(low.to(device))
        return super()._apply(fn, recurse)

    def decode(self, problem: PlanningProblem, latent: Tensor) -> Tensor:
        """Return the allowed actions `[…, T, A]` of latent points `[…, d]`.

        Of a planner that leaves bounds on its way, the decoder sees the nearest points
        inside `latent_space`.

        Raises:
            ShapeError, TensorTypeError: the decoder returns another shape or dtype.
        """
        if self.planner.leaves_bounds:
            latent = self.latent_space.project(latent)
        advice = "a decoder takes any leading dimensions"
        sizes = (*latent.shape[:-1], self.horizon, problem.action_space.dim)
        actions = ask("decoder:", self.decoder, latent, expected=sizes, advice=advice)
        return problem.project(actions)

    def check_problem(self, problem: PlanningProblem) -> None:
        """Raise what the inner planner raises for the problem it will be given."""
        self.planner.refuse(self.latent_problem(problem))
        self.planner._check_learnable()

    def check_derivatives(self, problem: PlanningProblem, state: Tensor) -> None:
        """Raise what the inner planner raises for the problem it will be given."""
        # What was made in inference mode cannot be differentiated.
        with torch.inference_mode(mode=False):
            problem = problem.realize(state, self.horizon)
        self.planner.check_derivatives(self.latent_problem(problem), state)
        if self.planner.needs_derivatives:  # and what the latent problem's cost hides
            name = type(self.planner).__name__
            require_derivatives(problem, state, self.horizon, needed_by=name)

    def noise_shape(self, request: PlanRequest) -> tuple[int, ...] | None:
        """Return the shape of the inner planner's noise."""
        return self.planner.noise_shape(self._inner(request.afresh()))

    def noise_from_keys(self, request: PlanRequest) -> Tensor | None:
        """Draw the noise of the inner planner."""
        return self.planner.noise_from_keys(self._inner(request.afresh()))

    def check_noise(self, request: PlanRequest) -> None:
        """Raise if noise is not such as the inner planner takes."""
        self.planner.check_noise(self._inner(request.afresh()))

    def cold_start(self, request: PlanRequest) -> Plan:
        """Return the plan of the latent point that the inner planner starts from."""
        inner = self.planner.cold_start(self._inner(request.afresh()))
        memory = {**inner.memory, "latent": inner.actions}
        actions = self.decode(request.problem, inner.action)
        return start_plan(request.state, actions, memory)

    def solve(self, request: PlanRequest) -> Solution:
        """Search for the latent point and decode it; see `Planner.solve`."""
        plan = self.planner.plan_for(self._inner(request))
        return Solution(
            actions=self.decode(request.problem, plan.action),
            status=plan.status,
            iterations=plan.iterations,
            diagnostics={**plan.diagnostics, "latent": plan.action},
            memory={**plan.memory, "latent": plan.actions},
        )

    def _inner(self, request: PlanRequest) -> PlanRequest:
        """Return what the inner planner is asked for."""
        start, watch = request.warm_start, None
        if request.watch is not None:
            watch = partial(self._show, request)
        return replace(
            request,
            watch=watch,
            problem=self.latent_problem(request.problem),
            warm_start=None if start is None else self._latent_start(start),
        )

    @torch.no_grad()
    def _show(
        self, request: PlanRequest, latent: Tensor, cost: Tensor, *_: Tensor | None
    ) -> None:
        """Show the actions that the inner planner's latent points are decoded to."""
        request.show(self.decode(request.problem, latent.squeeze(-2)), cost)

    def latent_problem(self, problem: PlanningProblem) -> PlanningProblem:
        """Return the problem that the inner planner solves.

        One step from the given state to itself, whose action is the latent point; its
        cost is that of the decoded actions from that state.
        """
        return _LatentProblem(self.decode, problem, self.latent_space)

    def _latent_start(self, warm_start: Plan) -> Plan:
        latent = warm_start.memory.get("latent")
        if latent is None:
            raise ArgumentError(
                "warm_start: expected a plan of LatentActions, with "
                f"memory['latent']; got memory of {sorted(warm_start.memory)}"
            )
        trailing = (1, self.latent_space.dim)
        name = "warm_start.memory['latent']"
        require_shape(name, latent, trailing, "must be [1, latent_space.dim]")
        memory = {k: v for k, v in warm_start.memory.items() if k != "latent"}
        states = warm_start.states[:, :1].expand(-1, 2, -1)  # of the one step: it stays
        return replace(warm_start, actions=latent, states=states, memory=memory)


class _LatentProblem(PlanningProblem):
    """See `LatentActions.latent_problem`; draws anew where the given one does."""

    def __init__(
        self,
        decode: Callable[[PlanningProblem, Tensor], Tensor],
        problem: PlanningProblem,
        latent_space: Box,
    ) -> None:
        def cost(seen: PlanningProblem, state: Tensor, latent: Tensor) -> Tensor:
            return seen.cost(state, decode(seen, latent))

        super().__init__(_stay, _DecodedCost(partial(cost, problem)), latent_space)
        self.common_noise = problem.common_noise
        self._cost_in, self._decoded = cost, problem

    def refuse_noise(self, needed_by: str) -> None:
        self._decoded.refuse_noise(needed_by)

    def redrawn(self, iteration: int, first: int, count: int) -> PlanningProblem:
        if self.common_noise:
            return self
        return self._of(self._decoded.redrawn(iteration, first, count))

    def standing_in(self, rows: StandIns) -> "_LatentProblem":
        return self._of(self._decoded.standing_in(rows))

    def _changed(self, change: Callable[..., Any]) -> PlanningProblem:
        return self._of(self._decoded._changed(change))

    def _of(self, problem: PlanningProblem) -> "_LatentProblem":
        """Return the problem that this one is of another one."""
        if problem is self._decoded:
            return self
        other = copy.copy(self)
        other.objective = _DecodedCost(partial(self._cost_in, problem))
        other._decoded = problem
        return other


class _DecodedCost(StageObjective):
    """The cost of the decoded actions, as that of the one step there is."""

    def __init__(self, cost: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.cost = cost

    def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
        if action.ndim > 1 and action.shape[-2] == 1:
            # A decoder and a model see the batch, without an axis for the one step.
            return self.cost(state.squeeze(-2), action.squeeze(-2)).unsqueeze(-1)
        return self.cost(state, action)

    def terminal_cost(self, state: Tensor) -> Tensor:
        return torch.zeros_like(state[..., 0])


def _stay(state: Tensor, action: Tensor) -> Tensor:  # noqa: ARG001
    return state
