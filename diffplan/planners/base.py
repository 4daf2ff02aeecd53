"""The planner contract: check, draw noise once, solve purely, answer with a record.

`Planner.forward` owns everything that all planners share — validation at the border,
any number of leading batch dimensions, randomness, the gradient strategy, exact action
bounds, and the states and cost of the answer. A concrete planner defines `solve`, which
sees one batch dimension and is pure: same arguments, same answer.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from diffplan.errors import ShapeError, require_finite
from diffplan.functional.rollout import rollout
from diffplan.gradients import Detach, GradientStrategy, require_supported
from diffplan.plan import Plan, Status
from diffplan.problem import PlanningProblem


@dataclass(frozen=True)
class Solution:
    """What `Planner.solve` found, with one batch dimension B.

    Attributes:
        actions: `[B, T, A]`; `Planner` projects them onto the action space.
        status: `[B]` integers of `Status`; None means `Status.COMPLETED`.
        iterations: `[B]` integers, or one number for all.
        diagnostics: See `Plan.diagnostics`.
        memory: See `Plan.memory`.
    """

    actions: Tensor
    status: Tensor | None = None
    iterations: Tensor | int = 0
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Mapping[str, Tensor] = field(default_factory=dict)


class Planner(nn.Module, ABC):
    """Base of all planners: `plan = planner(problem, state)`.

    A concrete planner sets `horizon` and `gradient` in its own `__init__`, names the
    strategies it supports in `supported_gradients`, and defines `solve` and — if it is
    random — `draw_noise`.

    References:
        The signature follows "a problem at call time, a record as the answer".
    """

    supported_gradients: ClassVar[tuple[type[GradientStrategy], ...]] = (Detach,)
    horizon: int
    gradient: GradientStrategy

    def forward(
        self,
        problem: PlanningProblem,
        state: Tensor,
        *,
        warm_start: Plan | None = None,
        generator: torch.Generator | None = None,
    ) -> Plan:
        """Plan from `state`.

        Args:
            problem: Dynamics, objective and action space.
            state: The given planning state `[…, S]`, any leading dimensions.
            warm_start: An earlier plan of the same batch and horizon, usually
                `plan.shifted(k)`; None starts afresh.
            generator: Source of all randomness; None stands for a new generator
                with seed 0, so that equal calls give equal plans. The global random
                state is never touched.

        Returns:
            A `Plan` with the leading dimensions of `state`.

        Raises:
            TensorTypeError, ShapeError, NonFiniteError: an argument is malformed.
            UnsupportedProblemError: the problem lacks what this planner needs.
        """
        if not _is_traced(state):
            problem.check_state(state)
            self.check_problem(problem)
            self._check_warm_start(problem, state, warm_start)
        batch_shape, flat = state.shape[:-1], state.reshape(-1, state.shape[-1])
        if warm_start is not None:
            count = len(batch_shape)
            warm_start = warm_start.map(lambda value: _flatten(value, count))
        noise = self.draw_noise(problem, flat, generator)
        with torch.no_grad() if isinstance(self.gradient, Detach) else nullcontext():
            solution = self.solve(problem, flat, noise, warm_start)
        plan = self._answer(problem, flat, solution)
        return plan.map(lambda value: value.reshape(batch_shape + value.shape[1:]))

    @abstractmethod
    def solve(
        self,
        problem: PlanningProblem,
        state: Tensor,
        noise: Tensor | None,
        warm_start: Plan | None,
    ) -> Solution:
        """Find actions for states `[B, S]`; pure, without host synchronisation.

        Args:
            problem: The problem, already checked.
            state: `[B, S]`.
            noise: What `draw_noise` returned.
            warm_start: An earlier plan with one batch dimension, or None.
        """

    def draw_noise(
        self,
        problem: PlanningProblem,  # noqa: ARG002
        state: Tensor,  # noqa: ARG002
        generator: torch.Generator | None,  # noqa: ARG002
    ) -> Tensor | None:
        """Draw all random numbers of one plan, before the pure core (default: none)."""
        return None

    def check_problem(self, problem: PlanningProblem) -> None:
        """Raise if the problem lacks a refinement or capability (default: none)."""

    def initial_actions(
        self, problem: PlanningProblem, state: Tensor, warm_start: Plan | None
    ) -> Tensor:
        """Return where planning starts: the warm start's actions, else the box centre.

        Returns:
            `[B, T, A]`.
        """
        if warm_start is not None:
            return warm_start.actions
        center = problem.action_space.to(state).center
        return center.expand(state.shape[0], self.horizon, -1)

    def configure_gradient(self, gradient: GradientStrategy) -> None:
        """Set the gradient strategy, refusing one that is not supported.

        Raises:
            UnsupportedGradientError: names the strategies that are.
        """
        self.gradient = require_supported(
            type(self).__name__, gradient, self.supported_gradients
        )

    def _answer(
        self, problem: PlanningProblem, state: Tensor, solution: Solution
    ) -> Plan:
        raw = solution.actions
        finite = torch.isfinite(raw).all(dim=-1).all(dim=-1)
        safe = torch.where(finite[:, None, None], raw, torch.zeros_like(raw))
        actions = problem.action_space.project(safe)
        states = rollout(problem.dynamics, state, actions)
        cost = problem.objective(states, actions)
        finite = finite & torch.isfinite(cost)
        status = solution.status
        if status is None:
            status = torch.full_like(finite, int(Status.COMPLETED), dtype=torch.long)
        status = torch.where(finite, status, int(Status.NON_FINITE))
        iterations = torch.as_tensor(solution.iterations, device=state.device)
        return Plan(
            actions=actions,
            states=states,
            cost=cost,
            status=status,
            iterations=iterations.expand(status.shape).clone(),
            diagnostics=dict(solution.diagnostics),
            memory=dict(solution.memory),
        )

    def _check_warm_start(
        self, problem: PlanningProblem, state: Tensor, warm_start: Plan | None
    ) -> None:
        if warm_start is None:
            return
        if warm_start.batch_shape != state.shape[:-1]:
            raise ShapeError(
                f"warm_start: expected the state's batch shape "
                f"{list(state.shape[:-1])}, got {list(warm_start.batch_shape)}"
            )
        problem.check_actions("warm_start.actions", warm_start.actions, self.horizon)
        require_finite("warm_start.actions", warm_start.actions)


def standard_normal(
    shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Draw N(0, 1) numbers in the dtype and on the device of `like`.

    Args:
        shape: The shape to draw.
        like: Gives dtype and device.
        generator: Its device is where the numbers are drawn; None stands for a new
            generator with seed 0 on the device of `like`.
    """
    if generator is None:
        generator = torch.Generator(like.device).manual_seed(0)
    drawn = torch.randn(
        shape, generator=generator, dtype=like.dtype, device=generator.device
    )
    return drawn.to(like.device)


def _is_traced(value: Tensor) -> bool:
    # Inside torch.compile and torch.func transforms numbers cannot be looked at, so
    # the checks at the border are left out there.
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return torch.compiler.is_compiling() or wrapped(value)


def _flatten(value: Tensor, count: int) -> Tensor:
    return value.reshape(-1, *value.shape[count:])
