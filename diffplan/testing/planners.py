"""Conformance checks for planners and world models, your own included.

`check_planner(planner)` and `check_world_model(model, observation)` raise an
`AssertionError` that says in words which promise is broken. The planners of diffplan
pass the same checks in its own tests.
"""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import NoReturn

import torch
from torch import Tensor

from diffplan.errors import NonFiniteError, ShapeError
from diffplan.functional.rollout import rollout
from diffplan.gradients import Detach
from diffplan.models.base import SequenceBatch, WorldModel
from diffplan.objectives import ActionPenalty, GoalDistance, SumOfResiduals
from diffplan.plan import Plan
from diffplan.planners.base import Planner
from diffplan.problem import Box, Linearizable, PlanningProblem

PlannerCheck = Callable[[Planner, PlanningProblem, Tensor], None]


def check_planner(
    planner: Planner,
    problem: PlanningProblem | None = None,
    state: Tensor | None = None,
    *,
    dynamics_tolerance: float = 1e-5,
) -> None:
    """Check that a planner keeps the promises of `Planner`.

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
        _same("plan.actions.shape", plan.actions.shape, (*lead, steps, width))
        _same(
            "plan.states.shape", plan.states.shape, (*lead, steps + 1, given.shape[-1])
        )
        for name in ("cost", "status", "iterations"):
            _same(f"plan.{name}.shape", getattr(plan, name).shape, lead)
        for name in ("status", "iterations"):
            _same(f"plan.{name}.dtype", getattr(plan, name).dtype, torch.long)
        for name, value in {**plan.diagnostics, **plan.memory}.items():
            _same(f"the batch dimensions of {name}", value.shape[: len(lead)], lead)
        for name, value in plan.memory.items():
            steps_of = value.shape[len(lead) : -1]
            if tuple(steps_of) not in ((planner.horizon,), (1,)):
                _fail(f"memory[{name!r}]: expected […, T or 1, k], got {value.shape}")
        _close("plan.states[..., 0, :]", plan.states[..., 0, :], given, 1e-6)
        _same("plan.actions.dtype", plan.actions.dtype, state.dtype)
        _same("plan.actions.device", plan.actions.device, state.device)
    _same_plan(
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
    _same_plan("another neighbour in the batch", got, expected)


def check_bounds(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """Every action lies in the action space, exactly."""
    actions = planner(problem, state).actions
    if not problem.action_space.contains(actions).all():
        _fail(f"actions leave {problem.action_space}: {actions.tolist()}")


def check_cost(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """`plan.cost` is the objective of `plan.states` and `plan.actions`."""
    plan = planner(problem, state)
    _close("plan.cost", plan.cost, problem.objective(plan.states, plan.actions), 1e-6)


def check_states_follow_actions(
    planner: Planner,
    problem: PlanningProblem,
    state: Tensor,
    tolerance: float = 1e-5,
) -> None:
    """`plan.states` is the rollout of `plan.actions`, up to a tolerance."""
    plan = planner(problem, state)
    expected = rollout(problem.dynamics, state, plan.actions)
    _close("plan.states", plan.states, expected, tolerance)


def check_randomness(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """Equal generators give equal plans, and the global random state is untouched."""
    before = torch.get_rng_state()
    plans = [
        planner(problem, state, generator=torch.Generator(state.device).manual_seed(7))
        for _ in range(2)
    ]
    _same_plan("an equal generator", *plans)
    _same_plan("no generator, twice", *[planner(problem, state) for _ in range(2)])
    if not torch.equal(before, torch.get_rng_state()):
        _fail("the global random state has changed; use the generator")


def check_purity(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """Planning changes neither its arguments nor the planner."""
    memory, given = copy.deepcopy(planner.state_dict()), state.clone()
    warm_start = planner(problem, state).detach()
    kept = copy.deepcopy(warm_start)
    planner(problem, state, warm_start=warm_start)
    _same_plan("the warm start, after planning", warm_start, kept)
    if not torch.equal(given, state):
        _fail("the given state was changed in place")
    for name, value in planner.state_dict().items():
        if not torch.equal(value, memory[name]):
            _fail(f"the planner's {name} was changed by planning; memory is a record")


def check_warm_start(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """A shifted plan is a valid warm start; a wrong one is refused by name."""
    plan = planner(problem, state).detach()
    check = planner(problem, state, warm_start=plan.shifted(1))
    _same("plan.actions.shape", check.actions.shape, plan.actions.shape)
    short = replace(plan, actions=plan.actions[..., 1:, :])
    with _refusal(ShapeError, "warm_start", "a warm start of another horizon"):
        planner(problem, state, warm_start=short)
    with _refusal(ShapeError, "warm_start", "a warm start of another batch"):
        planner(problem, state, warm_start=plan[0])


def check_errors(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """Malformed states are refused, by name, before any work is done."""
    with _refusal(NonFiniteError, "state", "NaN in the state"):
        planner(problem, torch.full_like(state, torch.nan))
    with _refusal(ShapeError, "state", "a state without dimensions"):
        planner(problem, state[0, 0])


def check_gradient(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """No graph under `no_grad` or `Detach()`; else a finite gradient to the state."""
    leaf = state.detach().clone().requires_grad_()
    with torch.no_grad():
        plan = planner(problem, leaf)
    for item in fields(Plan):
        value = getattr(plan, item.name)
        if isinstance(value, Tensor) and value.requires_grad:
            _fail(f"plan.{item.name} has a graph under torch.no_grad()")
    plan = planner(problem, leaf)
    if isinstance(planner.gradient, Detach):
        if plan.actions.requires_grad:
            _fail("plan.actions has a graph although gradient=Detach()")
        return
    if not plan.actions.requires_grad:
        _fail(f"plan.actions has no graph although gradient={planner.gradient}")
    (gradient,) = torch.autograd.grad(plan.actions.square().sum(), leaf)
    if not torch.isfinite(gradient).all():
        _fail(f"the gradient to the state is not finite: {gradient.tolist()}")


def check_copies(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """Copies, pickles and saved plans answer alike."""
    expected = planner(problem, state).detach()
    _same_plan("deepcopy", copy.deepcopy(planner)(problem, state), expected)
    _same_plan("pickle", pickle.loads(pickle.dumps(planner))(problem, state), expected)
    file = io.BytesIO()
    torch.save(expected, file)
    file.seek(0)
    _same_plan("torch.save", torch.load(file, weights_only=True), expected)


PLANNER_CHECKS: tuple[PlannerCheck, ...] = (
    check_shapes,
    check_purity,  # early: the others rely on their arguments staying as they are
    check_batch_independence,
    check_bounds,
    check_cost,
    check_randomness,
    check_warm_start,
    check_errors,
    check_gradient,
    check_copies,
)
"""What every planner promises, one promise per function."""


def check_world_model(
    model: WorldModel, observation: Tensor, *, tolerance: float = 1e-4
) -> None:
    """Check that a world model keeps the promises of `WorldModel`.

    Args:
        model: Any world model.
        observation: An example `[3, …]`, three observations of a float vector or of a
            uint8 image.
        tolerance: Absolute tolerance where two ways to one number are compared.

    Raises:
        AssertionError: says which promise is broken.
    """
    _same("the number of example observations", len(observation), 3)
    generator = torch.Generator(observation.device).manual_seed(0)
    example = model.initial_state((3,))
    _same("initial_state((3,)).shape", example.shape, (3, model.state_dim))
    _same("initial_state().shape", model.initial_state().shape, (model.state_dim,))

    def drawn(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, device=generator.device)
        return 0.3 * values.to(example)

    action = drawn(3, model.action_dim)
    with torch.no_grad():
        state = model.observe(example, action, observation)
        _same("observe(…).shape", state.shape, (3, model.state_dim))
        _check_leading_dimensions(model, state, action, tolerance)
        _check_readouts(model, state, observation)
    if isinstance(model, Linearizable):
        _check_jacobians(model, state, action, tolerance)
    batch = SequenceBatch(
        observations=torch.stack([observation, observation.roll(1, 0)], dim=1),
        actions=drawn(3, 1, model.action_dim),
        rewards=drawn(3, 1),
    )
    _check_loss(model, batch, generator)


def _check_leading_dimensions(
    model: WorldModel, state: Tensor, action: Tensor, tolerance: float
) -> None:
    following = model.step(state, action)
    _same("step(…).shape", following.shape, state.shape)
    _close("model(state, action)", model(state, action), following, tolerance)
    wide = model.step(state[:, None], action[:, None])
    _close("step with two leading dimensions", wide[:, 0], following, tolerance)
    single = torch.stack(
        [model.step(one, move) for one, move in zip(state, action, strict=True)]
    )
    _close("step without leading dimensions", single, following, tolerance)


def _check_readouts(model: WorldModel, state: Tensor, observation: Tensor) -> None:
    for given in (state[0], state, state[:, None]):
        lead = given.shape[:-1]
        _same("reward(…).shape", model.reward(given).shape, lead)
        shape = (*lead, *observation.shape[1:])
        _same("decode(…).shape", model.decode(given).shape, shape)


def _check_jacobians(
    model: Linearizable, state: Tensor, action: Tensor, tolerance: float
) -> None:
    following, by_state, by_action = model.linearize(state, action)
    step = model.step  # type: ignore[attr-defined]
    _close("linearize(…)[0]", following, step(state, action), tolerance)
    jacobians = torch.func.vmap(torch.func.jacrev(step, argnums=(0, 1)))
    expected_state, expected_action = jacobians(state, action)
    _close("linearize(…)[1]", by_state, expected_state, tolerance)
    _close("linearize(…)[2]", by_action, expected_action, tolerance)


def _check_loss(
    model: WorldModel, batch: SequenceBatch, generator: torch.Generator
) -> None:
    before = torch.get_rng_state()
    record = model.loss(batch, generator)
    if not torch.equal(before, torch.get_rng_state()):
        _fail("loss changed the global random state; use the generator")
    _same("loss(…).total.shape", record.total.shape, ())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(
        record.total, list(trained.values()), allow_unused=True
    )
    for name, gradient in zip(trained, gradients, strict=True):
        if gradient is None or not torch.isfinite(gradient).all():
            _fail(f"loss has no finite gradient into the parameter {name}")
    for name, value in record.metrics.items():
        if value.requires_grad or value.ndim:
            _fail(f"metrics[{name!r}]: expected a scalar without a graph")


@contextmanager
def _refusal(kind: type[Exception], name: str, what: str) -> Iterator[None]:
    # Expects an error of a kind whose message names an argument.
    try:
        yield
    except kind as error:
        if name not in str(error):
            _fail(f"{what}: expected a message that names {name!r}, got {error}")
        return
    except Exception as error:
        words = f"{what}: expected {kind.__name__} naming {name!r}, got {error!r}"
        raise AssertionError(words) from error
    _fail(f"{what}: expected {kind.__name__} naming {name!r}, got no error")


def _fail(words: str) -> NoReturn:
    raise AssertionError(words)


def _same(what: str, got: object, expected: object) -> None:
    if got != expected:
        _fail(f"{what}: expected {expected}, got {got}")


def _close(what: str, got: Tensor, expected: Tensor, tolerance: float) -> None:
    _same(f"{what}: shape", got.shape, expected.shape)
    if not torch.allclose(got, expected, rtol=tolerance, atol=tolerance):
        gap = float((got - expected).detach().abs().max())
        _fail(f"{what}: differs by {gap:.3g}, tolerance {tolerance}")


def _same_plan(after: str, got: Plan, expected: Plan) -> None:
    for name in ("actions", "states", "cost"):
        _close(
            f"plan.{name} with {after}",
            getattr(got, name),
            getattr(expected, name),
            1e-5,
        )
