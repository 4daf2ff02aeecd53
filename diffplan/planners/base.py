"""The planner contract: check, draw noise once, solve purely, answer with a record.

`Planner.forward` owns everything that all planners share — validation at the border,
any number of leading batch dimensions, randomness, the gradient strategy, exact action
bounds, and the states and cost of the answer. A concrete planner defines `solve`, which
sees one batch dimension and is pure: same arguments, same answer.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from diffplan._border import full_precision
from diffplan._checks import is_traced
from diffplan._one_line import one_line
from diffplan.functional._derivatives import constants
from diffplan.functional._isolation import guarded_copy
from diffplan.functional._rollout import inside_transform
from diffplan.gradients import (
    CONSTANT,
    Derivatives,
    Detach,
    GradientStrategy,
    Implicit,
)
from diffplan.plan import Plan
from diffplan.planners._arguments import (
    flattened,
    moved_to,
    refuse_categories,
    require_callback,
    require_kinds,
    require_warm_start,
)
from diffplan.planners._compiling import CompilableCore, start_plan
from diffplan.planners._derivatives import (
    default_strategy,
    refuse_export,
    refuse_inference_mode,
    require_derivatives,
    require_promised,
    require_supported,
    tell_of_constants,
)
from diffplan.planners._numbers import check_numbers, numbers_in_range
from diffplan.planners._randomness import (
    check_randomness,
    counted,
    refuse_both,
    refuse_random,
)
from diffplan.planners._solution import Solution, answer
from diffplan.planners.request import Callback, PlanRequest, Watch
from diffplan.problem import PlanningProblem

__all__ = ["Planner", "Solution"]


class Planner(CompilableCore, ABC):
    """Base of all planners: `plan = planner(problem, state)`.

    A concrete planner sets `horizon` and `gradient` in its own `__init__`, declares in
    `supported_gradients` which strategies it supports and what they promise, in
    `learnable_numbers` which of its arguments may be an `nn.Parameter`, and defines
    `solve` and — if it is random — `noise_shape`.

    Problems with more than a box are met halfway: `solve` brings actions to the allowed
    ones by `problem.project` and judges them by `problem.cost`. A planner that does the
    latter throughout declares `plans_under_noise`, or it is given no
    `StochasticProblem`; one that keeps constraints on states declares
    `keeps_state_constraints`. `candidate_dimensions` counts the dimensions that it adds
    to the batch when it calls the model (candidates, starts …): those are tried once,
    before any work is done. One that cannot move within constrained actions calls
    `problem.refuse_constraints` in `check_problem`. One that descends the cost by its
    derivative declares `needs_derivatives` (`torch.export` cannot trace it), and one
    that asks the model about actions outside of the box on its way `leaves_bounds`. One
    that plans choices (`dp.Categorical`) declares `plans_categories`. One that offers
    to save memory sets `checkpoint`.
    """

    supported_gradients: ClassVar[Mapping[type[GradientStrategy], Derivatives]] = {
        Detach: CONSTANT
    }
    learnable_numbers: ClassVar[tuple[str, ...]] = ()
    keeps_state_constraints: ClassVar[bool] = False
    plans_under_noise: ClassVar[bool] = False
    needs_derivatives: bool = False
    leaves_bounds: bool = False
    plans_categories: bool = False
    candidate_dimensions: ClassVar[int] = 1
    checkpoint: bool = False
    horizon: int
    gradient: GradientStrategy
    _constant_by_default: bool = False
    __repr__ = one_line  # that of `nn.Module` draws a tree

    def forward(
        self,
        problem: PlanningProblem,
        state: Tensor,
        *,
        warm_start: Plan | None = None,
        generator: torch.Generator | None = None,
        keys: Tensor | None = None,
        noise: Tensor | None = None,
        evaluate: bool = True,
        callback: Callback | None = None,
    ) -> Plan:
        """Plan from `state`.

        What is random about a plan depends on a seed, on the key of its problem and on
        the number of plans before it, which a warm start remembers: neither on the
        place in the batch, nor on the batch, nor on how the work is split. With
        `shared_noise`, however, all depend on the key of the first in their batch.

        Args:
            problem: Dynamics, objective and action space.
            state: The given planning state `[…, S]`, any leading dimensions; float32
                or float64, which decides the dtype of the plan, also under autocast.
            warm_start: An earlier plan of the same batch and horizon, usually
                `plan.shifted(k)`; None starts afresh.
            generator: Gives the seed of this call, and so advances; None stands for
                seed 0, so that equal calls give equal plans. The global random state
                is never touched.
            keys: Of the problems, int64 `[…]`, such as the numbers of episodes; None
                stands for the index in the batch. Equal keys give equal noise.
            noise: The random numbers themselves, in place of `generator` and `keys`:
                what `draw_noise` returned, now or in another run, or numbers of your
                own in its shape. None draws them.
            evaluate: False leaves out the rollout of the answer, T steps of the
                dynamics one after the other, for those who want nothing but actions:
                `plan.states` and `plan.cost` are NaN, `plan.status` does not tell
                whether the cost is finite, and the answer is not compared with what was
                known before it (a warm start). `AugmentedLagrangian` still rolls out
                each plan that its multipliers follow from.
            callback: Called with an `Iterate` in each iteration: what was tried, and
                what it cost. Not where the planner is compiled or transformed.

        Returns:
            A `Plan` with the leading dimensions of `state`.

        Raises:
            TensorTypeError, ShapeError, NonFiniteError: an argument is malformed.
            ArgumentError: `noise` and what it would be drawn from are both given, or
                a callback that nothing can call.
            UnsupportedProblemError: the problem lacks what this planner needs.
        """
        refuse_export(type(self).__name__, self.needs_derivatives)
        given = PlanRequest(problem, state, noise, warm_start, evaluate, keys)
        request = self._request(given, generator)
        if callback is not None:
            require_callback(callback, state, self._compiled is not None)
            request = replace(request, watch=Watch(callback, state.shape[:-1]))
        with full_precision(state):
            # What is traced has no numbers to look at: no checks at the border then.
            if not is_traced(state):
                self._check_graph(problem, state)
            request = replace(request, problem=moved_to(request.problem, request.state))
            plan = self._run(request)
        lead = state.shape[:-1]
        if len(lead) != 1:
            plan = plan.map(lambda value: value.reshape(lead + value.shape[1:]))
        return counted(plan, warm_start)

    if TYPE_CHECKING:  # that of `nn.Module` returns Any

        def __call__(  # noqa: D102
            self,
            problem: PlanningProblem,
            state: Tensor,
            *,
            warm_start: Plan | None = None,
            generator: torch.Generator | None = None,
            keys: Tensor | None = None,
            noise: Tensor | None = None,
            evaluate: bool = True,
            callback: Callback | None = None,
        ) -> Plan: ...

    def draw_noise(
        self,
        problem: PlanningProblem,
        state: Tensor,
        *,
        warm_start: Plan | None = None,
        generator: torch.Generator | None = None,
        keys: Tensor | None = None,
    ) -> Tensor | None:
        """Draw the random numbers that a call with the same arguments would draw.

        They can be kept and handed over: `planner(problem, state, noise=noise)`.

        Args:
            problem: See `forward`; so are the others.
            state: `[…, S]`.
            warm_start: Says how many plans came before; nothing else of it is used.
            generator: Gives the seed, and so advances.
            keys: Of the problems.

        Returns:
            Numbers that lead with the dimensions of `state`, of its dtype, or with
            ones in their place where all problems share them. A planner that samples
            too much to keep (see `SamplingPlanner`) returns the int64 keys `[…]` that
            it draws from. None for a planner without random numbers.

        Raises:
            TensorTypeError, ShapeError, NonFiniteError: an argument is malformed.
            UnsupportedProblemError: the problem is random itself, see `forward`.
        """
        if not is_traced(state):
            refuse_random(problem)
        given = PlanRequest(problem, state, None, warm_start, keys=keys)
        with full_precision(state):
            noise = self.noise_from_keys(self._request(given, generator))
        if noise is None:
            return None
        lead = state.shape[:-1]
        if len(noise) != lead.numel():  # shared by all problems
            lead = torch.Size([1] * len(lead))
        return noise.reshape(lead + noise.shape[1:])

    def _request(
        self, given: PlanRequest, generator: torch.Generator | None
    ) -> PlanRequest:
        """Check what a user has given, and make its leading dimensions one."""
        problem, state, start = given.problem, given.state, given.warm_start
        require_kinds(problem, state, start, given.evaluate)
        problem.check_horizon(self.horizon)
        if not is_traced(state):
            self.refuse(problem)
            problem.check_state(state, self.horizon, self.candidate_dimensions)
            self._check_learnable()
            if start is not None:
                require_warm_start(problem, state, start, self.horizon)
        check_randomness(state, generator, given.keys)
        keys, noise, lead = None, given.noise, state.shape[:-1]
        if noise is not None:
            refuse_both(generator, given.keys)
            refuse_random(problem)
            self.check_noise(given)
        problem = problem.for_batch(lead)
        if start is not None:
            start = start.to(state)
        if noise is None:
            keys = self.plan_keys(replace(given, warm_start=start), generator)
        if len(lead) != 1:
            batch = lead.numel()
            state = state.reshape(batch, state.shape[-1])
            keys = None if keys is None else keys.reshape(batch)
            if start is not None:
                start = start.map(lambda value: flattened(value, lead))
            noise = None if noise is None else flattened(noise, lead)
        return PlanRequest(problem, state, noise, start, given.evaluate, keys)

    def _plan(self, request: PlanRequest) -> Plan:
        if request.keys is not None:
            problem, state, keys = request.problem, request.state, request.keys
            problem = problem.realize(state, self.horizon, keys)
            request = self.with_noise(replace(request, problem=problem))
        return self.plan_for(request)

    def plan_for(self, request: PlanRequest) -> Plan:
        """Plan for a request whose noise is drawn: the core of `forward`.

        For planners that run another one: nothing is checked.

        Args:
            request: Its problem's own noise is drawn too.
        """
        if isinstance(self.gradient, Implicit):
            refuse_inference_mode(type(self).__name__)
        state = request.state
        request = replace(request, problem=moved_to(request.problem, state))
        graphed = guarded_copy(request.problem, state)
        untracked = isinstance(self.gradient, Detach | Implicit)
        with constants() if untracked else nullcontext():
            given = request if untracked else replace(request, problem=graphed)
            solution = self.solve(given)
        if isinstance(self.gradient, Implicit):
            solution = self.differentiate(request, solution)
        return answer(
            replace(request, problem=graphed),
            solution,
            sound=numbers_in_range(self),
            constant=isinstance(self.gradient, Detach),
            checkpoint=self.checkpoint,
        )

    @abstractmethod
    def solve(self, request: PlanRequest) -> Solution:
        """Find actions for the states of a request; pure, no host synchronisation.

        Args:
            request: See `PlanRequest`.
        """

    def differentiate(self, request: PlanRequest, solution: Solution) -> Solution:
        """Attach the implicit gradient to a solution that was found without a graph.

        A planner that declares `Implicit` defines it.
        """
        raise NotImplementedError(f"{type(self).__name__} declares Implicit only")

    def cold_start(self, request: PlanRequest) -> Plan:
        """Return `initial_actions` as a plan; see `CompilableCore.cold_start`."""
        actions = self.initial_actions(request.afresh())
        return start_plan(request.state, actions)

    def refuse(self, problem: PlanningProblem) -> None:
        """Raise if this planner cannot plan for a problem, from whatever state.

        Raises:
            UnsupportedProblemError: names the planner and what it cannot do.
        """
        name = type(self).__name__
        if not self.keeps_state_constraints:
            problem.refuse_state_constraints(name)
        if not self.plans_under_noise:
            problem.refuse_noise(name)
        refuse_categories(problem, name, plans=self.plans_categories)
        self.check_problem(problem)

    def check_problem(self, problem: PlanningProblem) -> None:
        """Raise if the problem lacks a refinement or capability (default: none)."""

    def check_derivatives(self, problem: PlanningProblem, state: Tensor) -> None:
        """Raise if the planner descends a cost that has no derivative by the actions.

        Once per planner and problem. A planner that runs another one asks that one.

        Args:
            problem: The problem, already checked.
            state: `[…, S]`.

        Raises:
            UnsupportedProblemError: the graph between actions and cost is cut.
        """
        if self.needs_derivatives:
            constant = isinstance(self.gradient, Detach) or not torch.is_grad_enabled()
            name, steps = type(self).__name__, self.horizon
            require_derivatives(problem, state, steps, needed_by=name, by_hand=constant)

    def initial_actions(self, request: PlanRequest) -> Tensor:
        """Return where planning starts: the warm start's actions, else the box centre.

        Returns:
            Allowed actions `[B, T, A]`.
        """
        problem, state = request.problem, request.state
        if request.warm_start is not None:
            return problem.project(request.warm_start.actions)
        return problem.middle(state, self.horizon)

    def configure_gradient(
        self, gradient: GradientStrategy | None, inner: "Planner | None" = None
    ) -> None:
        """Set the gradient strategy, refusing one that is not supported.

        Args:
            gradient: None stands for `Unroll()` where it is supported, so that every
                planner that can be a layer is one unless asked otherwise, and for
                `Detach()` elsewhere.
            inner: The planner that this one runs, if it does.

        Raises:
            UnsupportedGradientError: names the strategies that are.
        """
        chosen = default_strategy(self.supported_gradients, gradient)
        nobody_chose = gradient is None and (
            inner is None or inner._constant_by_default
        )
        self._constant_by_default = nobody_chose and isinstance(chosen, Detach)
        self.gradient = require_supported(
            type(self).__name__, chosen, self.supported_gradients
        )

    def _check_learnable(self) -> None:
        check_numbers(self)
        if torch.is_grad_enabled():
            require_promised(self, self.gradient, self.supported_gradients)

    def _check_graph(self, problem: PlanningProblem, state: Tensor) -> None:
        """Check once what this planner and the caller need a graph for."""
        if inside_transform():  # what the problem closes over may be a placeholder
            return
        graph = torch.is_grad_enabled()
        functions = (problem.dynamics, problem.objective)
        kind = (self, graph, *functions, state.shape, state.dtype, state.device)
        if kind != problem.differentiated:
            self.check_derivatives(problem, state)
            problem.differentiated = kind
        if graph and self._constant_by_default and state.requires_grad:
            self._constant_by_default = False
            tell_of_constants(type(self).__name__)
