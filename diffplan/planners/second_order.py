"""The loop of the planners that shoot with second derivatives, `ILQR` and `ShootingGN`.

Both expand the problem about the rollout of their actions, solve the model for a step
inside the action bounds, and take as much of it as lowers the cost::

    repeat `iterations` times:
        model    ← linearised dynamics, quadratic costs      all steps at once
        step     ← minimiser of the damped model             dynamic programming
        trials   ← rollouts with several fractions of it     side by side
        actions  ← the best trial if it costs less
        damping  ← less after success, more after failure

Everything is decided per batch element, without looking at a number from the host.
Decisions (how much of a step, which bounds are active, how much damping) are piecewise
constant; the actions between them carry the gradient.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from diffplan.errors import (
    ArgumentError,
    is_traced,
    require_count,
    require_positive,
)
from diffplan.gradients import Implicit, Truncated, tracked
from diffplan.plan import Status
from diffplan.planners.base import Planner, Solution
from diffplan.planners.candidates import worst_if_nan
from diffplan.planners.implicit import differentiate_actions
from diffplan.planners.steps import (
    Nominal,
    Step,
    follow,
    gradient_norm,
    roll_out,
    trial,
)
from diffplan.problem import PlanningProblem
from diffplan.solvers.least_squares import AdaptiveDamping

_ROUNDING = 10.0
"""How many units of rounding a cost may rise: Newton's last steps are below them."""


class SecondOrderShooting(Planner):
    """Base of `ILQR` and `ShootingGN`; owns the loop above.

    A concrete planner defines `step` and `solve`, which calls `iterate`.

    Attributes:
        iterations: Steps.
        tolerance: See `ILQR`.
        step_sizes: Fractions of a step that are tried, the largest first.
        early_exit: See `ILQR`.
    """

    iterations: int
    tolerance: float
    step_sizes: tuple[float, ...]
    early_exit: bool

    def configure_iteration(
        self,
        *,
        horizon: int,
        iterations: int,
        tolerance: float,
        step_sizes: Sequence[float],
        early_exit: bool,
    ) -> None:
        """Check and set the attributes that both planners name alike.

        Raises:
            ArgumentError: names the first argument that is out of range.
        """
        self.horizon = require_count("horizon", horizon)
        self.iterations = require_count("iterations", iterations, 0)
        self.tolerance = require_positive("tolerance", tolerance)
        self.early_exit = early_exit
        self.step_sizes = tuple(sorted(step_sizes, reverse=True))
        if not self.step_sizes or not all(0 < size <= 1 for size in self.step_sizes):
            raise ArgumentError(
                f"step_sizes: expected numbers above 0 and at most 1, got {step_sizes}"
            )

    @abstractmethod
    def step(self, problem: PlanningProblem, nominal: Nominal, damping: Tensor) -> Step:
        """Return the step that the damped model asks for.

        Args:
            problem: The problem.
            nominal: Where to expand it.
            damping: Added to the curvature of the actions, `[…]`.
        """

    @abstractmethod
    def damping_rule(self) -> AdaptiveDamping | Tensor | float:
        """Return how the damping changes: a number stays as it is."""

    def differentiate(
        self, problem: PlanningProblem, state: Tensor, solution: Solution
    ) -> Solution:
        """Give the actions the derivative of the minimum that they are."""
        strategy = cast(Implicit, self.gradient)
        return differentiate_actions(problem, state, solution, strategy)

    def iterate(
        self, problem: PlanningProblem, state: Tensor, actions: Tensor, damping: Tensor
    ) -> tuple[Solution, Tensor]:
        """Run the loop.

        Args:
            problem: The problem.
            state: `[…, S]`.
            actions: Where to start, inside the bounds, `[…, T, A]`.
            damping: The first damping, `[…]`.

        Returns:
            A solution whose tensors have the leading dimensions of `state`, and what
            it costs, `[…]`, without a graph. Diagnostics: traces of the values before
            each iteration, `cost`, `gradient_norm` and `damping`, and `step_size`, the
            fraction of the step that was taken (0 if none); of the returned actions
            `optimality` (the gradient norm that `tolerance` judges), and `gains` for a
            planner that has some.
        """
        rule, traces = self.damping_rule(), Traces()
        nominal, last, tracking, iteration = None, None, False, 0
        while iteration < self.iterations:
            with tracked(self.gradient, iteration, self.iterations):
                # a trajectory that was rolled out without a graph has none of its own
                fresh = torch.is_grad_enabled() and not tracking
                tracking = torch.is_grad_enabled()
                if nominal is None or fresh:
                    actions = actions if nominal is None else nominal.actions
                    nominal = roll_out(problem, state, actions)
                last = self.step(problem, nominal, damping)
                norm = gradient_norm(problem.action_space, nominal, last)
                done = self._done(norm, iteration)
                if self.early_exit and may_leave(done):
                    iteration = self._after_exit(iteration)
                    continue
                taken, cost = self._search(problem, nominal, last, rule)
                taken = torch.where(done, 0.0, taken)
                traces.add(done, nominal.cost, norm, damping, taken)
                nominal = follow(problem, nominal, last, taken, cost)
            changed = next_damping(rule, damping, taken > 0, last.ok)
            damping, last = torch.where(done, damping, changed), None
            iteration += 1
        with torch.no_grad():
            if nominal is None:
                nominal = roll_out(problem, state, actions)
            if last is None:
                last = self.step(problem, nominal, damping)
        return self._solution(problem, nominal, last, damping, traces), nominal.cost

    def _done(self, norm: Tensor, iteration: int) -> Tensor:
        """Where an element stays as it is from here on, `[…]` bool."""
        kept = iteration >= self._after_exit(0) and isinstance(self.gradient, Truncated)
        if not self.early_exit or kept:
            return torch.zeros_like(norm, dtype=torch.bool)
        return norm <= self.tolerance

    def _after_exit(self, iteration: int) -> int:
        """The iteration to go on with when nothing is left to improve.

        `Truncated` differentiates the last iterations, converged or not.
        """
        kept = 0
        if isinstance(self.gradient, Truncated):
            kept = min(self.gradient.iterations, self.iterations)
        return max(iteration, self.iterations - kept)

    def _search(
        self,
        problem: PlanningProblem,
        nominal: Nominal,
        step: Step,
        rule: AdaptiveDamping | Tensor | float,
    ) -> tuple[Tensor, Tensor]:
        """Return how much of the step to take and what that costs, `[…]` each."""
        with torch.no_grad():
            # Filled on the device: a copy from the host would be waited for.
            sizes = torch.stack(
                [nominal.cost.new_full((), size) for size in self.step_sizes]
            )
            states, actions = trial(problem, nominal, step, sizes)
            costs = worst_if_nan(problem.objective(states, actions))
            # among equals (up to rounding) the longest step: Newton's is the best guess
            best = costs.amin(-1, keepdim=True)
            index = (costs <= best + _slack(best)).to(torch.uint8).argmax(-1)
            cost = costs.gather(-1, index.unsqueeze(-1)).squeeze(-1)
            better = step.ok & torch.isfinite(cost)
            if isinstance(rule, AdaptiveDamping):
                better = better & (cost <= nominal.cost + _slack(nominal.cost))
            taken = torch.where(better, sizes[index], 0.0)
            return taken, torch.where(better, cost, nominal.cost)

    def _solution(
        self,
        problem: PlanningProblem,
        nominal: Nominal,
        last: Step,
        damping: Tensor,
        traces: "Traces",
    ) -> Solution:
        optimality = gradient_norm(problem.action_space, nominal, last)
        found = torch.where(
            optimality <= self.tolerance,
            int(Status.CONVERGED),
            int(Status.ITERATION_LIMIT),
        )
        found = torch.where(last.ok, found, int(Status.FACTORIZATION_FAILED))
        finite = torch.isfinite(nominal.cost)
        diagnostics = {**traces.stacked(nominal.cost), "optimality": optimality}
        if last.gains is not None:
            diagnostics["gains"] = last.gains
        return Solution(
            actions=nominal.actions,
            status=torch.where(finite, found, int(Status.NON_FINITE)),
            iterations=traces.iterations(nominal.cost),
            diagnostics={key: value.detach() for key, value in diagnostics.items()},
            memory={"damping": damping.detach()[..., None, None]},
        )


class Traces:
    """What is remembered of each iteration, `[…]` per entry."""

    def __init__(self) -> None:
        names = ("cost", "gradient_norm", "damping", "step_size")
        self.values: dict[str, list[Tensor]] = {name: [] for name in names}
        self.busy: list[Tensor] = []

    def add(self, done: Tensor, *entries: Tensor) -> None:
        """Remember one iteration: who had finished, and a number per trace."""
        for trace, entry in zip(self.values.values(), entries, strict=True):
            trace.append(entry.detach())
        self.busy.append(~done)

    def stacked(self, like: Tensor) -> dict[str, Tensor]:
        """Return the traces `[…, iterations]`."""
        return {
            name: torch.stack(trace, -1) if trace else like.new_zeros(*like.shape, 0)
            for name, trace in self.values.items()
        }

    def iterations(self, like: Tensor) -> Tensor:
        """Return how many iterations each element used `[…]`."""
        if not self.busy:
            return torch.zeros_like(like, dtype=torch.long)
        return torch.stack(self.busy).sum(0)


def may_leave(done: Tensor) -> bool:
    """Whether all elements are done, as far as that may be looked at."""
    return not is_traced(done) and bool(done.all())


def next_damping(
    rule: AdaptiveDamping | Tensor | float, damping: Tensor, moved: Tensor, ok: Tensor
) -> Tensor:
    """Return the next damping `[…]`.

    Args:
        rule: A number is kept, but for an element that could not be factored.
        damping: The last one.
        moved: Where a step was taken.
        ok: Where there was one.
    """
    if isinstance(rule, AdaptiveDamping):
        factor = torch.where(moved, rule.shrink, rule.grow).to(damping)
        return (factor * damping).clamp(rule.minimum, rule.maximum)
    kept = rule.to(damping) if isinstance(rule, Tensor) else rule
    return torch.where(ok, kept, more_damping(damping))


def more_damping(damping: Tensor) -> Tensor:
    """Return ten times the damping, or a little where there was none."""
    return 10.0 * damping.clamp_min(1e-6)


def _slack(cost: Tensor) -> Tensor:
    finite = torch.where(torch.isfinite(cost), cost.abs(), 0.0)
    return _ROUNDING * torch.finfo(cost.dtype).eps * finite
