"""Conformance checks for planners, your own included."""

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from diffplan.errors import NonFiniteError, ShapeError
from diffplan.gradients import Detach
from diffplan.objectives import ActionPenalty, GoalDistance, SumOfResiduals
from diffplan.plan import Plan, Status
from diffplan.planners.base import Planner
from diffplan.problem import Box, PlanningProblem
from diffplan.testing._answers import (
    check_cut_graph,
    check_failed_element,
    check_no_worse,
    check_questions,
)
from diffplan.testing._assertions import (
    answered,
    close,
    constants_expected,
    fail,
    refusal,
    same,
    same_plan,
)
from diffplan.testing._batches import check_batches, check_loop, check_seeds
from diffplan.testing._border import (
    check_dtypes,
    check_goals,
    check_wrong_dynamics,
    check_wrong_objectives,
)
from diffplan.testing._bounds import (
    check_moving_bounds,
    check_questions_in_moving_bounds,
)
from diffplan.testing._contexts import check_contexts, check_global_state
from diffplan.testing._degenerate import (
    check_constant_objective,
    check_empty_batch,
    check_fixed_actions,
)
from diffplan.testing._iterations import check_callback, check_choices

PlannerCheck = Callable[[Planner, PlanningProblem, Tensor], None]


def check_planner(
    planner: Planner,
    problem: PlanningProblem | None = None,
    state: Tensor | None = None,
    *,
    dynamics_tolerance: float = 1e-5,
) -> None:
    """Check that a planner keeps the promises of `Planner`.

    Whether its gradient is the right one, only `check_gradients` asks; and what
    `Status.CONVERGED` means is the planner's to say.

    Args:
        planner: Any planner.
        problem: What to plan; None stands for pushing a point to a goal, a small
            linear problem with a quadratic (residual) objective and bounded actions.
        state: Start states `[B, S]` with B of at least 2; needed with `problem`.
        dynamics_tolerance: How far `plan.states` may be from the rollout of
            `plan.actions`, an absolute number. Collocation needs more than shooting.

    Raises:
        AssertionError: says which promise is broken.

    Example:
        >>> from diffplan.planners import CEM
        >>> check_planner(CEM(horizon=3, num_samples=20, num_elites=5))
    """
    if problem is None or state is None:
        problem, state = point_mass_problem()
    for check in PLANNER_CHECKS:
        check(planner, problem, state)
    check_states_follow_actions(planner, problem, state, dynamics_tolerance)


def point_mass_problem(
    dtype: torch.dtype = torch.float32,
) -> tuple[PlanningProblem, Tensor]:
    """Return a small linear-quadratic problem and three start states `[3, 2]`."""

    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        position, velocity = state.split(1, dim=-1)
        return torch.cat([position + 0.3 * velocity, velocity + 0.3 * action], dim=-1)

    goal = torch.tensor([0.5, 0.0], dtype=dtype)
    objective = SumOfResiduals([GoalDistance(goal), ActionPenalty(0.1)])
    box = Box(torch.tensor([-1.0], dtype=dtype), torch.tensor([0.7], dtype=dtype))
    state = torch.tensor([[0.0, 0.0], [-0.6, 0.4], [0.9, -0.3]], dtype=dtype)
    return PlanningProblem(dynamics, objective, box), state


def check_shapes(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """Any leading dimensions; T actions, T+1 states, the given one first."""
    for given in (state[0], state, state[None]):
        plan, lead = planner(problem, given.clone()), given.shape[:-1]
        steps, width = planner.horizon, problem.action_space.dim
        same("plan.actions.shape", plan.actions.shape, (*lead, steps, width))
        same(
            "plan.states.shape", plan.states.shape, (*lead, steps + 1, given.shape[-1])
        )
        for name in ("cost", "status", "iterations"):
            same(f"plan.{name}.shape", getattr(plan, name).shape, lead)
        for name in ("status", "iterations"):
            same(f"plan.{name}.dtype", getattr(plan, name).dtype, torch.long)
        if (plan.iterations < 0).any():
            fail(f"plan.iterations: expected counts, got {plan.iterations.tolist()}")
        for name, value in {**plan.diagnostics, **plan.memory}.items():
            same(f"the batch dimensions of {name}", value.shape[: len(lead)], lead)
        for name, value in plan.memory.items():
            steps_of = value.shape[len(lead) : -1][-1:]  # others may stand before them
            if tuple(steps_of) not in ((planner.horizon,), (1,)):
                fail(f"memory[{name!r}]: expected […, T or 1, k], got {value.shape}")
        close("plan.states[..., 0, :]", plan.states[..., 0, :], given, 1e-6)
        same("plan.actions.dtype", plan.actions.dtype, state.dtype)
        same("plan.actions.device", plan.actions.device, state.device)
    same_plan(
        "an extra leading dimension",
        planner(problem, state[None].clone())[0],
        planner(problem, state.clone()),
    )


def check_batch_independence(
    planner: Planner, problem: PlanningProblem, state: Tensor
) -> None:
    """A plan does not depend on its neighbours in the batch."""
    others = torch.cat([state[:1], state[1:] + 0.1])
    expected, got = planner(problem, state)[0], planner(problem, others)[0]
    same_plan("another neighbour in the batch", got, expected)


def check_bounds(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """Every action lies in the action space, exactly, and keeps its constraints.

    A plan that breaks a constraint says so by its status.
    """
    plan = planner(problem, state)
    if not problem.action_space.contains(plan.actions).all():
        fail(f"actions leave {problem.action_space}: {plan.actions.tolist()}")
    broken = ~problem.contains(plan.actions).all(dim=-1)
    said = plan.status == int(Status.CONSTRAINT_VIOLATED)
    silent = broken & ~said & (plan.status != int(Status.NON_FINITE))
    if silent.any():
        fail(
            f"actions break a constraint: expected status CONSTRAINT_VIOLATED where "
            f"{broken.tolist()}, got {plan.status.tolist()}"
        )


def check_cost(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """`plan.cost` is the objective of `plan.states` and `plan.actions`."""
    plan = planner(problem, state)
    close("plan.cost", plan.cost, problem.objective(plan.states, plan.actions), 1e-6)
    blind = planner(problem, state, evaluate=False)
    if not planner.leaves_bounds:  # collocation rolls out to compare with its start
        close("plan.actions with evaluate=False", blind.actions, plan.actions, 1e-5)
    for name in ("states", "cost"):
        got, expected = getattr(blind, name), getattr(plan, name)
        same(f"plan.{name}.shape with evaluate=False", got.shape, expected.shape)
        if not got.isnan().all():
            fail(f"plan.{name} with evaluate=False: expected NaN, got {got.tolist()}")


def check_states_follow_actions(
    planner: Planner,
    problem: PlanningProblem,
    state: Tensor,
    tolerance: float = 1e-5,
) -> None:
    """`plan.states` is the rollout of `plan.actions`, up to a tolerance."""
    plan = planner(problem, state)
    expected = problem.rollout(state, plan.actions)
    close("plan.states", plan.states, expected, tolerance)


def check_randomness(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """Equal generators or noise give equal plans; given noise stays as it is."""

    def seeded() -> torch.Generator:
        return torch.Generator(state.device).manual_seed(7)

    plans = [planner(problem, state, generator=seeded()) for _ in range(2)]
    same_plan("an equal generator", *plans)
    if not problem.is_random:
        noise = planner.draw_noise(problem, state, generator=seeded())
        given = copy.deepcopy(noise)
        same_plan("noise of draw_noise", planner(problem, state, noise=noise), plans[0])
        if noise is not None and given is not None and not noise.equal(given):
            fail("the given noise was changed in place")
    same_plan("no generator, twice", *[planner(problem, state) for _ in range(2)])


def check_purity(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """Planning changes neither its arguments nor the planner."""
    memory, given = copy.deepcopy(planner.state_dict()), state.clone()
    with answered("a copy of the planner, once it has planned"):
        fresh = copy.deepcopy(planner)
    warm_start = planner(problem, state).detach()
    kept = copy.deepcopy(warm_start)
    planner(problem, state, warm_start=warm_start)
    same_plan("the warm start, after planning", warm_start, kept)
    if not torch.equal(given, state):
        fail("the given state was changed in place")
    for name, value in planner.state_dict().items():
        if not torch.equal(value, memory[name]):
            fail(f"the planner's {name} was changed by planning; memory is a record")
    other, keys = state.flip(0), torch.arange(5, 5 + len(state), device=state.device)
    same_plan(
        "other problems planned before",
        planner(problem, other, keys=keys),
        fresh(problem, other, keys=keys.clone()),
    )
    same("the given keys, after planning", keys.tolist(), [*range(5, 5 + len(state))])


def check_warm_start(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """A shifted plan is a valid warm start; a wrong one is refused by name."""
    plan = planner(problem, state).detach()
    check = planner(problem, state, warm_start=plan.shifted(1))
    same("plan.actions.shape", check.actions.shape, plan.actions.shape)
    short = replace(plan, actions=plan.actions[..., 1:, :])
    with refusal(ShapeError, "warm_start", "a warm start of another horizon"):
        planner(problem, state, warm_start=short)
    with refusal(ShapeError, "warm_start", "a warm start of another batch"):
        planner(problem, state, warm_start=plan[0])


def check_errors(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """Malformed states are refused, by name, before any work is done."""
    with refusal(NonFiniteError, "state", "NaN in the state"):
        planner(problem, torch.full_like(state, torch.nan))
    with refusal(ShapeError, "state", "a state without dimensions"):
        planner(problem, state[0, 0])


def check_gradient(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """No graph under `no_grad` or `Detach()`; else a finite gradient to the state."""
    leaf = state.detach().clone().requires_grad_()
    with torch.no_grad():
        plan = planner(problem, leaf)
    for name in _with_graph(plan):
        fail(f"plan.{name} has a graph under torch.no_grad()")
    with constants_expected():
        plan = planner(problem, leaf)
    if isinstance(planner.gradient, Detach):
        for name in _with_graph(plan):
            if name not in ("states", "cost"):  # the model's own
                fail(f"plan.{name} has a graph although gradient=Detach()")
        return
    if not plan.actions.requires_grad:
        fail(f"plan.actions has no graph although gradient={planner.gradient}")
    (gradient,) = torch.autograd.grad(plan.actions.square().sum(), leaf)
    if not torch.isfinite(gradient).all():
        fail(f"the gradient to the state is not finite: {gradient.tolist()}")


def _with_graph(plan: Plan) -> list[str]:
    """Return the names of all tensors of a plan that have a graph."""
    named = vars(plan) | {
        f"{kind}[{name!r}]": value
        for kind in ("diagnostics", "memory")
        for name, value in getattr(plan, kind).items()
    }
    return [name for name, value in named.items() if getattr(value, "requires_grad", 0)]


def check_copies(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """Copies, pickles and saved plans answer alike."""
    expected = planner(problem, state).detach()
    with answered("a copy of the planner, once it has planned"):
        same_plan("deepcopy", copy.deepcopy(planner)(problem, state), expected)
    with answered("pickling the planner"):
        again = pickle.loads(pickle.dumps(planner))
        same_plan("pickle", again(problem, state), expected)
    file = io.BytesIO()
    torch.save(expected, file)
    file.seek(0)
    same_plan("torch.save", torch.load(file, weights_only=True), expected)


PLANNER_CHECKS: tuple[PlannerCheck, ...] = (
    check_global_state,  # first: what changes once has changed before all others
    check_shapes,
    check_purity,  # early: the others rely on their arguments staying as they are
    check_batch_independence,
    check_bounds,
    check_cost,
    check_randomness,
    check_warm_start,
    check_errors,
    check_gradient,
    check_contexts,
    check_copies,
    check_no_worse,
    check_questions,
    check_failed_element,
    check_cut_graph,
    check_wrong_objectives,
    check_wrong_dynamics,
    check_dtypes,
    check_goals,
    check_batches,
    check_seeds,
    check_loop,
    check_empty_batch,
    check_fixed_actions,
    check_constant_objective,
    check_callback,
    check_choices,
    check_moving_bounds,
    check_questions_in_moving_bounds,
)
"""What every planner promises, one promise per function."""
