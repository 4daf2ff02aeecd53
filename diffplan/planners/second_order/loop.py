"""The loop of the planners that shoot with second derivatives, `ILQR` and `ShootingGN`.

Both expand the problem about the rollout of their actions, solve the model for a step
inside the action bounds, and take as much of it as lowers the cost::

    repeat `iterations` times:
        model    ← linearised dynamics, quadratic costs      all steps at once
        step     ← minimiser of the damped model             dynamic programming
        actions  ← the longest fraction of it that pays      line search
        damping  ← less after success, more after failure

Everything is decided per batch element, and can be without looking at a number from the
host; where looking is free, work that no element needs is left out.
Decisions (how much of a step, which bounds are active, how much damping) are piecewise
constant; the actions between them carry the gradient.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from diffplan._checks import require_count, require_positive
from diffplan.errors import ArgumentError
from diffplan.functional._condensed import is_short
from diffplan.functional._derivatives import inside_transform
from diffplan.functional._isolation import (
    StandIns,
    finite_rows,
    may_look,
    without_gradient,
)
from diffplan.functional.box_lqr import IncrementalLQR, LimitedLaw, limited_sweep
from diffplan.gradients import Detach, Implicit, Truncated, tracked
from diffplan.plan import Status
from diffplan.planners._arguments import Form
from diffplan.planners._implicit import differentiate_actions
from diffplan.planners._progress import has_risen
from diffplan.planners.base import Planner, Solution
from diffplan.planners.request import PlanRequest
from diffplan.planners.second_order._line_search import (
    Chosen,
    Nominal,
    PolicyStep,
    cheaper,
    follow,
    increments,
    roll_out,
    search,
)
from diffplan.planners.second_order._parts import PLAIN, Expanded, Parts, compiled_parts
from diffplan.planners.second_order._traces import (
    Traces,
    in_place_of,
    never_moved,
    show,
    went_well,
)
from diffplan.problem import PlanningProblem
from diffplan.solvers._least_squares import AdaptiveDamping, next_damping


class SecondOrderShooting(Planner):
    """Base of `ILQR` and `ShootingGN`; owns the loop above.

    A concrete planner defines `step` and `solve`, which calls `iterate`.

    Attributes:
        iterations: Steps.
        step_sizes: Fractions of a step that are tried, the largest first.
        tolerance: See `ILQR`.
        early_exit: See `ILQR`.
        max_step: See `ILQR`.
        feedback: See `ILQR`.
        form: See `ILQR`.
        parts: What most of an iteration's time goes to; compiled, once `compile` was
            called.
    """

    needs_derivatives = True
    iterations: int
    tolerance: float
    step_sizes: tuple[float, ...]
    early_exit: bool | None
    max_step: float | None
    feedback: bool = False
    form: Form = "auto"
    parts: Parts = PLAIN

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the parts of an iteration: model and objective, and a sweep's step.

        The whole loop is iterations × horizon of steps, too long for one graph.

        Args:
            args: As for `torch.compile`.
            kwargs: As for `torch.compile`; `dynamic` is False unless given, for code
                that serves any size is slower here than none.
        """
        self.parts = compiled_parts(*args, **{"dynamic": False, **kwargs})

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was compiled, as `nn.Module` does."""
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name != "parts"}

    def configure_iteration(
        self,
        *,
        horizon: int,
        iterations: int,
        tolerance: float,
        step_sizes: Sequence[float],
        early_exit: bool | None,
        max_step: float | None,
        form: Form,
    ) -> None:
        """Check and set the attributes that both planners name alike.

        Raises:
            ArgumentError: names the first argument that is out of range.
        """
        self.horizon = require_count("horizon", horizon)
        self.iterations = require_count("iterations", iterations, 0)
        self.tolerance = require_positive("tolerance", tolerance)
        self.early_exit = early_exit
        self.form = form
        if max_step is not None:
            max_step = require_positive("max_step", max_step)
        self.max_step = max_step
        self.step_sizes = tuple(sorted(step_sizes, reverse=True))
        if not self.step_sizes or not all(0 < size <= 1 for size in self.step_sizes):
            raise ArgumentError(
                f"step_sizes: expected numbers above 0 and at most 1, got {step_sizes}"
            )

    @abstractmethod
    def gauss_newton_for(self, problem: PlanningProblem) -> bool:
        """Return whether cost Hessians are JᵀJ."""

    @abstractmethod
    def step(
        self,
        problem: PlanningProblem,
        nominal: Nominal,
        model: IncrementalLQR,
        law: LimitedLaw,
    ) -> PolicyStep:
        """Return the step that the law of the damped model asks for.

        Args:
            problem: The problem.
            nominal: Where it was expanded.
            model: The expansion.
            law: Optimal in it within the bounds.
        """

    @abstractmethod
    def damping_rule(self) -> AdaptiveDamping | Tensor | float:
        """Return how the damping changes: a number stays as it is."""

    def differentiate(self, request: PlanRequest, solution: Solution) -> Solution:
        """Give the actions the derivative of the minimum that they are."""
        strategy = cast(Implicit, self.gradient)
        problem, state = request.problem, request.state
        return differentiate_actions(problem, state, solution, strategy)

    def iterate(
        self, request: PlanRequest, state: Tensor, actions: Tensor, damping: Tensor
    ) -> tuple[Solution, Tensor]:
        """Run the loop.

        Args:
            request: What was asked for.
            state: `[…, S]`.
            actions: Where to start, inside the bounds, `[…, T, A]`.
            damping: The first damping, `[…]`.

        Returns:
            A solution whose tensors have the leading dimensions of `state`, and what
            it costs, `[…]`, without a graph. Diagnostics: traces of the values before
            each iteration, `cost`, `gradient_norm` and `damping`, and `step_size`, the
            fraction of the step that was taken (0 if none); of the returned actions
            `optimality` (the gradient norm that `tolerance` judges), and `gains` where
            `feedback` asks for them.
        """
        if not torch.is_grad_enabled():
            return self._iterate(request, state, actions, damping)
        # What fails spoils all gradients (see `_isolation`): others take its place
        if self.may_look(damping):
            solution, cost = self._iterate(request, state, actions, damping)
            ok = went_well(solution, cost)
            if bool(ok.all()):
                return solution, cost
            if not bool(ok.any()):
                constant = without_gradient(solution.actions)
                return replace(solution, actions=constant), cost
            failed, request = (solution, cost), replace(request, watch=None)
        else:
            with torch.no_grad():
                nominal = roll_out(request.problem, state, actions)
            ok = finite_rows((nominal.states, nominal.cost), damping.dim())
            failed = never_moved(actions), nominal.cost
        rows = StandIns.of(ok)
        request = replace(request, problem=request.problem.standing_in(rows))
        others = map(rows.put, (state, actions, damping))
        return in_place_of(failed, ok, self._iterate(request, *others))

    def _iterate(
        self, request: PlanRequest, state: Tensor, actions: Tensor, damping: Tensor
    ) -> tuple[Solution, Tensor]:
        problem, rule = request.problem, self.damping_rule()
        traces, best = Traces(), None
        ok = torch.ones_like(damping, dtype=torch.bool)
        nominal, expanded, tracking, iteration = None, None, False, 0
        while iteration < self.iterations:
            with tracked(self.gradient, iteration, self.iterations):
                # a trajectory that was rolled out without a graph has none of its own
                fresh = torch.is_grad_enabled() and not tracking
                tracking = torch.is_grad_enabled()
                if nominal is None or fresh:
                    actions = actions if nominal is None else nominal.actions
                    nominal = roll_out(problem, state, actions)
                if not isinstance(rule, AdaptiveDamping):
                    best = nominal if best is None else cheaper(best, nominal)
                expanded = self._expand(problem, nominal)
                done = self._done(expanded.norm, iteration)
                if self.may_look(done) and bool(done.all()):
                    iteration = self._after_exit(iteration)
                    continue
                step = self._step(problem, nominal, expanded, damping, ~done)
                chosen = self._chosen(problem, nominal, step, step.ok & ~done)
                traces.add(done, nominal.cost, expanded.norm, damping, chosen.size)
                show(request, nominal)
                moved = chosen.nominal
                if tracking:
                    moved = follow(problem, nominal, step, chosen)
                nominal, expanded = moved, None
            changed = next_damping(rule, damping, chosen.size > 0, step.ok)
            damping, ok = torch.where(done, damping, changed), step.ok | done
            iteration += 1
        if nominal is None:
            with torch.no_grad():
                nominal = roll_out(problem, state, actions)
        last = nominal.cost
        if best is not None:
            nominal, expanded = cheaper(best, nominal), None
        return self._ended(problem, nominal, expanded, ok, damping, traces, last)

    @torch.no_grad()
    def _ended(
        self,
        problem: PlanningProblem,
        nominal: Nominal,
        expanded: Expanded | None,
        ok: Tensor,
        damping: Tensor,
        traces: Traces,
        last: Tensor,
    ) -> tuple[Solution, Tensor]:
        """Return what `iterate` does, about the trajectory of the answer."""
        if expanded is None:
            expanded = self._expand(problem, nominal)
        solution = self._solution(nominal, expanded.norm, ok, damping, traces, last)
        if self.feedback or isinstance(self.gradient, Implicit):
            step = self._step(problem, nominal, expanded, damping)
            if self.feedback and step.gains is not None:
                known = {**solution.diagnostics, "gains": step.gains}
                solution = replace(solution, diagnostics=known)
            if isinstance(self.gradient, Implicit):
                # what this step takes off need not be polished away
                nominal = self._chosen(problem, nominal, step, step.ok).nominal
                solution = replace(solution, actions=nominal.actions)
        return solution, nominal.cost

    def _expand(self, problem: PlanningProblem, nominal: Nominal) -> Expanded:
        # A compiled model would have no second derivative.
        parts = PLAIN if torch.is_grad_enabled() else self.parts
        # Another layout would be compiled anew.
        nominal = Nominal(*(part.contiguous() for part in nominal))
        newton = self.gauss_newton_for(problem)
        return parts.expand(problem, nominal, gauss_newton=newton)

    def _step(
        self,
        problem: PlanningProblem,
        nominal: Nominal,
        expanded: Expanded,
        damping: Tensor,
        wanted: Tensor | None = None,
    ) -> PolicyStep:
        low, high = increments(problem, nominal, self.max_step)
        look, model = self.may_look(low), expanded.model
        if self._is_condensed(problem, low):
            # A graph could not end as soon as the held actions are known.
            solve = (PLAIN if look else self.parts).program
            # What is expanded at first and not later would be compiled twice.
            slope = None if torch.is_grad_enabled() else expanded.slope
            limits = (low, high, damping.contiguous())
            found = solve(model, *limits, slope=slope, look=look)
            ok = found.ok & expanded.finite
            return PolicyStep(found.moves, None, found.decrease, ok, self.max_step)
        stage = None if self.parts is PLAIN else self.parts.stage
        law = limited_sweep(
            model, low, high, damping, wanted=wanted, look=look, stage=stage
        )
        step = self.step(problem, nominal, model, law)
        ok = step.ok & expanded.finite
        return step._replace(ok=ok, max_step=self.max_step)

    def _is_condensed(self, problem: PlanningProblem, actions: Tensor) -> bool:
        count, affine = actions.shape[-2:].numel(), problem.is_affine
        if self.feedback or not is_short(count, affine=affine):
            return self.form == "condensed"
        return self.form != "sweep"

    def _chosen(
        self,
        problem: PlanningProblem,
        nominal: Nominal,
        step: PolicyStep,
        allowed: Tensor,
    ) -> Chosen:
        return search(
            problem,
            nominal,
            step,
            self.step_sizes,
            allowed=allowed,
            must_fall=isinstance(self.damping_rule(), AdaptiveDamping),
            look=self.may_look(allowed),
            attempt=self.parts.attempt,
        )

    def _done(self, norm: Tensor, iteration: int) -> Tensor:
        """Return where an element stays as it is from here on, `[…]` bool."""
        kept = iteration >= self._after_exit(0) and isinstance(self.gradient, Truncated)
        stays = self.early_exit
        if stays is None:
            stays = isinstance(self.gradient, Detach | Implicit)
        if not stays or kept:
            return torch.zeros_like(norm, dtype=torch.bool)
        return norm <= self.tolerance

    def may_look(self, value: Tensor) -> bool:
        """Return whether a number may be looked at from the host, to save work."""
        traced = torch.compiler.is_compiling() or inside_transform()
        return may_look(value) or (self.early_exit is True and not traced)

    def _after_exit(self, iteration: int) -> int:
        """Return the iteration to go on with when nothing is left to improve.

        `Truncated` differentiates the last iterations, converged or not.
        """
        kept = 0
        if isinstance(self.gradient, Truncated):
            kept = min(self.gradient.iterations, self.iterations)
        return max(iteration, self.iterations - kept)

    def _solution(
        self,
        nominal: Nominal,
        optimality: Tensor,
        ok: Tensor,
        damping: Tensor,
        traces: Traces,
        last: Tensor,
    ) -> Solution:
        found = torch.where(
            optimality <= self.tolerance,
            int(Status.CONVERGED),
            int(Status.ITERATION_LIMIT),
        )
        found = torch.where(ok, found, int(Status.FACTORIZATION_FAILED))
        first = traces.values["cost"][0] if traces.busy else last
        found = torch.where(has_risen(first, last), int(Status.DIVERGED), found)
        finite = torch.isfinite(nominal.cost)
        diagnostics = {**traces.stacked(nominal.cost), "optimality": optimality}
        return Solution(
            actions=nominal.actions,
            status=torch.where(finite, found, int(Status.NON_FINITE)),
            iterations=traces.iterations(nominal.cost),
            diagnostics={key: value.detach() for key, value in diagnostics.items()},
            memory={"damping": damping.detach()[..., None, None]},
        )
