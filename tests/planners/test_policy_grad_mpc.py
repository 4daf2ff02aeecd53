"""Policy + Grad-MPC by hand: equation 6, where it begins, what it refuses."""

from collections.abc import Callable

import pytest
import torch
from problems import double_integrator, states_of
from torch import Tensor

import diffplan as dp
from diffplan.errors import ArgumentError, DiffplanError, ShapeError
from diffplan.models import RSSM, Actor, Critic
from diffplan.objectives import NegativeReturn
from diffplan.planners import follow

BOX = dp.Box([-1.0], [1.0])


def test_equation_6_by_hand() -> None:
    """Horizon 1, one start: u ← u + α ∇_u V(f(x, u)), as often as asked."""
    torch.manual_seed(0)
    model = RSSM((5,), action_dim=1, belief_size=8, state_size=4, hidden_size=8)
    actor = Actor(12, BOX, hidden_size=8, layers=1).double()
    critic, model = Critic(12, hidden_size=8, layers=1).double(), model.double()
    problem = dp.PlanningProblem(model.step, NegativeReturn(critic), BOX)
    state = torch.randn(3, 12).double()
    action = actor(state).detach()
    for _ in range(4):
        action.requires_grad_()
        value = critic(model.step(state, action)).sum()
        (slope,) = torch.autograd.grad(value, action)
        action = (action + 0.3 * slope).clamp(-1, 1).detach()
    options = {"iterations": 4, "step_size": 0.3, "keep_best": False}
    planner = dp.PolicyGradMPC(1, actor, **options)
    torch.testing.assert_close(planner(problem, state).action, action)


def test_it_begins_with_what_the_policy_does_and_samples_of_it() -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)

    def policy(given: Tensor) -> Tensor:
        return -0.5 * given[..., :1]

    planner = dp.PolicyGradMPC(4, policy, num_starts=3, iterations=0, std=0.2)
    request = dp.planners.PlanRequest(problem, state, keys=torch.arange(2))
    points = planner.starting_points(planner.with_noise(request))
    assert points.shape == (2, 3, 4, 1)
    expected, now = [], state
    for _ in range(4):
        expected.append(policy(now).clamp(-1, 1))
        now = problem.dynamics(now, expected[-1])
    torch.testing.assert_close(points[:, 0], torch.stack(expected, dim=1))
    assert not torch.equal(points[:, 1], points[:, 0])
    still = torch.zeros(2, 1, 4, 1).double()
    own = follow(lambda x, _: policy(x), problem, state, still)
    torch.testing.assert_close(own[:, 0], points[:, 0])


def test_it_never_ends_above_its_policy() -> None:
    problem, state = double_integrator(limit=1.0), states_of(3)
    planner = dp.PolicyGradMPC(5, lambda x: -x[..., :1], iterations=5, step_size=50.0)
    still = torch.zeros(3, 1, 5, 1).double()
    own = follow(lambda x, _: -x[..., :1], problem, state, still)[:, 0]
    assert (planner(problem, state).cost <= problem.cost(state, own)).all()


def test_a_model_may_bring_the_policy_and_one_without_is_refused() -> None:
    class Model(RSSM):
        def policy(self, state: Tensor) -> Tensor:
            return state[..., :1]

    sizes = {"belief_size": 8, "state_size": 4, "hidden_size": 8}
    assert dp.PolicyGradMPC(1, Model((5,), 1, **sizes)).policy is not None
    with pytest.raises(ArgumentError, match=r"policy: .* got RSSM, which has none"):
        dp.PolicyGradMPC(1, RSSM((5,), 1, **sizes))
    with pytest.raises(ArgumentError, match=r"policy: .* got float"):
        dp.PolicyGradMPC(1, 0.5)


# For states with two numbers and actions with two; all but the last three would
# be broadcast against noise `[…, A]`.
WRONG_POLICIES: dict[str, Callable[..., object]] = {
    "too few actions": lambda state: state[..., :1],
    "a constant": lambda state: torch.zeros(2).to(state),
    "a mean over the batch": lambda state: state.mean(0, keepdim=True),
    "a mean over the starts": lambda state: state.mean(1, keepdim=True),
    "another dtype": lambda state: state.float(),
    "a lost dimension": lambda state: state.sum(-1),
    "nothing": lambda state: None,
    "dynamics": lambda state, action: state + action,
}


@pytest.mark.parametrize("name", WRONG_POLICIES)
@pytest.mark.parametrize("init", ["mode", "sample"])
@pytest.mark.parametrize("method", [False, True])
def test_what_a_policy_returns_is_checked(name: str, init: str, method: bool) -> None:
    class Sampling:
        def __call__(self, state: Tensor) -> Tensor:
            return state

        def sample(self, state: Tensor, noise: Tensor) -> object:
            return WRONG_POLICIES[name](state)

    policy = Sampling() if method else WRONG_POLICIES[name]
    box = dp.Box([-1.0, -1.0], [1.0, 1.0])
    objective = dp.objectives.GoalDistance(torch.zeros(2).double())
    problem = dp.PlanningProblem(torch.add, objective, box)
    planner = dp.PolicyGradMPC(3, policy, num_starts=5, init=init)
    with pytest.raises(DiffplanError, match=r"^policy: "):
        planner(problem, states_of(3))


def test_followed_actions_are_checked() -> None:
    problem, state = double_integrator(limit=1.0), states_of(3)
    noise = torch.zeros(3, 4, 2, 1).double()

    def act(state: Tensor, noise: Tensor) -> Tensor:
        return state  # two numbers, for one action

    with pytest.raises(ShapeError, match=r"act to return \[3, 4, 1\], got \[3, 4, 2\]"):
        follow(act, problem, state, noise)


@pytest.mark.parametrize("shape", [(2,), (4, 2), (3, 4, 2)])
def test_actions_of_a_step_are_projected_as_within_their_plan(
    shape: tuple[int, ...],
) -> None:
    """With a constraint besides; bounds of all steps, of each, of each and problem."""
    torch.manual_seed(0)
    reach = torch.rand(shape).double()
    problem = dp.PlanningProblem(
        torch.add,
        dp.objectives.GoalDistance(torch.zeros(2).double()),
        dp.Box(-reach, reach),
        constraints=[dp.constraints.Ball(0.5)],
    )
    plan = torch.randn(3, 5, 4, 2).double()
    whole = problem.project(plan)
    for step in range(4):
        alone = problem.project(plan[..., step, :], step)
        torch.testing.assert_close(alone, whole[..., step, :])


def test_starts_are_mixed_with_what_those_of_the_last_plan_became() -> None:
    problem, state = double_integrator(limit=1.0), states_of(2)
    options = {"num_starts": 3, "iterations": 2, "init": "sample"}
    planner = dp.PolicyGradMPC(4, lambda x: -x[..., :1], reuse=0.25, **options)
    plain = dp.PolicyGradMPC(4, lambda x: -x[..., :1], **options)
    first = planner(problem, state)
    assert first.memory["candidates"].shape == (2, 3, 4, 1)
    assert "candidates" not in plain(problem, state).memory
    start = first.shifted(1)
    seen: list[Tensor] = []
    for each in (planner, plain):
        each(
            problem, state, warm_start=start, callback=lambda s: seen.append(s.actions)
        )
    mixed, fresh = seen[0], seen[2]
    torch.testing.assert_close(mixed[:, 0], start.actions)
    before = start.memory["candidates"]
    torch.testing.assert_close(
        before[..., :-1, :], first.memory["candidates"][..., 1:, :]
    )
    torch.testing.assert_close(mixed[:, 1:], 0.75 * fresh[:, 1:] + 0.25 * before)


def test_reuse_is_a_share_and_of_as_many_starts() -> None:
    with pytest.raises(ArgumentError, match=r"reuse: expected 0 … 1, got 1.5"):
        dp.PolicyGradMPC(1, torch.zeros_like, reuse=1.5)
    problem, state = double_integrator(limit=1.0), states_of(2)
    few, many = (
        dp.PolicyGradMPC(2, lambda x: -x[..., :1], num_starts=count, reuse=0.5)
        for count in (2, 3)
    )
    with pytest.raises(ShapeError, match=r"warm_start.memory\['candidates'\]: .*3, 2"):
        many(problem, state, warm_start=few(problem, state).detach())
