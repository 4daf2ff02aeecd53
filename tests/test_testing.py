"""The public conformance checks: they pass what is right and catch what is not."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

import diffplan as dp
from diffplan.errors import ArgumentError
from diffplan.models import RSSM
from diffplan.models.base import LossRecord, SequenceBatch, WorldModel
from diffplan.planners import CEM
from diffplan.planners.base import Solution
from diffplan.testing import (
    check_gradients,
    check_planner,
    check_world_model,
    point_mass_problem,
)
from diffplan.testing._planners import check_purity


def cem() -> CEM:
    return CEM(horizon=3, num_samples=16, num_elites=4, iterations=2)


def test_a_right_planner_passes() -> None:
    check_planner(cem())


def global_noise(solution: Solution, state: Tensor) -> Solution:
    torch.rand(1)
    return solution


def shared_mean(solution: Solution, state: Tensor) -> Solution:
    return replace(
        solution, actions=solution.actions.mean(0).expand_as(solution.actions)
    )


def short(solution: Solution, state: Tensor) -> Solution:
    return replace(solution, actions=solution.actions[:, 1:])


def in_place(solution: Solution, state: Tensor) -> Solution:
    state += 1.0
    return solution


def flat_memory(solution: Solution, state: Tensor) -> Solution:
    return replace(solution, memory={"std": solution.memory["std"][:, 0]})


@pytest.mark.parametrize(
    ("defect", "words"),
    [
        (global_noise, "global random state"),
        (shared_mean, "neighbour in the batch"),
        (short, r"plan\.actions\.shape"),
        (in_place, r"states\[\.\.\., 0, :\]|in place"),
        (flat_memory, "memory"),
    ],
)
def test_a_wrong_planner_is_caught_in_words(
    defect: Callable[[Solution, Tensor], Solution], words: str
) -> None:
    class Wrong(CEM):
        def solve(self, request):  # noqa: ANN001, ANN202
            return defect(super().solve(request), request.state)

    with pytest.raises(AssertionError, match=words):
        check_planner(Wrong(3, num_samples=16, num_elites=4, iterations=2))


class Forgetful(CEM):
    """Remembers its last plan in itself."""

    last: dp.Plan | None = None

    def forward(self, problem, state, *, warm_start=None, generator=None):  # noqa: ANN001, ANN201
        warm_start = warm_start or self.last
        if warm_start is not None and warm_start.batch_shape != state.shape[:-1]:
            warm_start = None
        plan = super().forward(
            problem, state, warm_start=warm_start, generator=generator
        )
        self.last = plan
        return plan


def test_hidden_state_is_caught() -> None:
    with pytest.raises(AssertionError, match="differs by"):
        check_planner(Forgetful(3, num_samples=16, num_elites=4, iterations=2))


class Drifting(CEM):
    """Mixes in a little of all that it planned before."""

    before: float = 0.0

    def solve(self, request):  # noqa: ANN001, ANN201
        solution = super().solve(request)
        moved = solution.actions + 0.1 * self.before
        self.before += 0.1
        return replace(solution, actions=moved)


class Evaluating(CEM):
    """Does not hear that only actions are wanted."""

    def forward(self, problem, state, *, evaluate=True, **options):  # noqa: ANN001, ANN003, ANN201
        return super().forward(problem, state, **options)


class Lazy(CEM):
    """Searches less where only actions are wanted."""

    def solve(self, request):  # noqa: ANN001, ANN201
        solution = super().solve(request)
        share = 1.0 if request.evaluate else 0.5
        return replace(solution, actions=share * solution.actions)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Evaluating, r"plan\.states with evaluate=False: expected NaN"),
        (Lazy, r"plan\.actions with evaluate=False: differs"),
    ],
)
def test_what_goes_wrong_without_evaluation_is_caught(
    kind: type[CEM], words: str
) -> None:
    with pytest.raises(AssertionError, match=words):
        check_planner(kind(3, num_samples=16, num_elites=4, iterations=2))


def test_state_between_calls_is_caught() -> None:
    wrong = Drifting(3, num_samples=16, num_elites=4, iterations=2)
    with pytest.raises(AssertionError, match="other problems planned before"):
        check_purity(wrong, *point_mass_problem())


def test_leaving_the_bounds_is_caught() -> None:
    class Loose(CEM):
        def forward(self, *args, **kwargs):  # noqa: ANN002, ANN003, ANN202
            plan = super().forward(*args, **kwargs)
            return replace(plan, actions=plan.actions + 1.0)

    with pytest.raises(AssertionError, match="actions leave"):
        check_planner(Loose(3, num_samples=16, num_elites=4, iterations=2))


def model() -> RSSM:
    return RSSM(
        observation_shape=(5,),
        action_dim=2,
        belief_size=8,
        state_size=3,
        embedding_size=6,
        hidden_size=8,
        free_nats=0.0,  # else the KL term, and its gradient, may be cut off
    )


OBSERVATION = torch.linspace(-1, 1, 15).reshape(3, 5)


def test_a_right_world_model_passes() -> None:
    check_world_model(model(), OBSERVATION)


def test_a_wrong_jacobian_is_caught() -> None:
    class Wrong(RSSM):
        def linearize(self, state: Tensor, action: Tensor) -> tuple[Tensor, ...]:
            following, by_state, by_action = super().linearize(state, action)
            return following, 1.1 * by_state, by_action

    wrong = model()
    wrong.__class__ = Wrong
    with pytest.raises(AssertionError, match="linearize"):
        check_world_model(wrong, OBSERVATION)


def test_a_parameter_that_is_not_trained_is_caught() -> None:
    wrong = model()
    wrong.forgotten = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(AssertionError, match="forgotten"):
        check_world_model(wrong, OBSERVATION)


def test_one_observation_for_many_states_is_caught() -> None:
    class Wrong(RSSM):
        def observe(self, state: Tensor, action: Tensor, *rest: Tensor) -> Tensor:
            seen = rest[0].expand(*state.shape[:-1], -1)
            return super().observe(state, action, seen, *rest[1:])

    wrong = model()
    wrong.__class__ = Wrong
    with pytest.raises(
        AssertionError, match="expected ShapeError naming 'observation'"
    ):
        check_world_model(wrong, OBSERVATION)


def test_a_batch_that_mixes_is_caught() -> None:
    class Wrong(RSSM):
        def step(self, state: Tensor, action: Tensor) -> Tensor:
            return super().step(state, action) + state.mean()

    wrong = model()
    wrong.__class__ = Wrong
    with pytest.raises(AssertionError, match=r"step with|step without"):
        check_world_model(wrong, OBSERVATION)


class Linear(WorldModel):
    """A small right model, of which the wrong ones below are made."""

    state_dim, action_dim = 4, 2

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = torch.nn.Linear(5, 4), torch.nn.Linear(4, 5)
        self.dynamics, self.rewards = torch.nn.Linear(6, 4), torch.nn.Linear(4, 1)

    def encode(self, observation: Tensor) -> Tensor:
        return self.encoder(observation)

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        return self.dynamics(torch.cat([state, action], dim=-1)).tanh()

    def decode(self, state: Tensor) -> Tensor:
        return self.decoder(state)

    def reward(self, state: Tensor) -> Tensor:
        return self.rewards(state)[..., 0]

    def value(self, state: Tensor) -> Tensor:
        return state.sum(dim=-1)

    def continues(self, state: Tensor) -> Tensor:
        return state.mean(dim=-1).sigmoid()

    def rollout(self, state: Tensor, actions: Tensor) -> Tensor:
        states = [state]
        for action in actions.unbind(dim=-2):
            states.append(self.step(states[-1], action))
        return torch.stack(states, dim=-2)

    def loss(self, batch: SequenceBatch, generator: torch.Generator) -> LossRecord:
        seen = self.encode(batch.observations)
        noise = torch.randn(seen.shape, generator=generator)
        states = self.step((seen + noise)[:, :-1], batch.actions)
        errors = (
            states - seen[:, 1:],
            self.reward(states) - batch.rewards,
            self.decode(seen) - batch.observations,
        )
        return LossRecord(sum(error.square().mean() for error in errors), {})


def test_a_model_with_all_readouts_passes() -> None:
    check_world_model(Linear(), OBSERVATION)


@pytest.mark.parametrize(
    "name", ["encode", "observe", "reward", "value", "continues", "decode"]
)
def test_a_capability_that_sees_its_neighbours_is_caught(name: str) -> None:
    def mixed(self: Linear, *arguments: Tensor) -> Tensor:
        result = getattr(Linear, name)(self, *arguments)
        return result - result.mean()

    wrong = type("Wrong", (Linear,), {name: mixed})()
    with pytest.raises(AssertionError, match=f"{name} without leading dimensions"):
        check_world_model(wrong, OBSERVATION)


def test_a_readout_that_counts_dimensions_is_caught() -> None:
    class Wrong(Linear):
        def reward(self, state: Tensor) -> Tensor:
            return super().reward(state) * (state.ndim < 3)

    with pytest.raises(AssertionError, match="reward with two leading dimensions"):
        check_world_model(Wrong(), OBSERVATION)


def test_a_rollout_that_is_not_its_steps_is_caught() -> None:
    class Wrong(Linear):
        def rollout(self, state: Tensor, actions: Tensor) -> Tensor:
            return super().rollout(state, 0.9 * actions)

    with pytest.raises(AssertionError, match="rollout, against step by step"):
        check_world_model(Wrong(), OBSERVATION)


@pytest.mark.parametrize(
    ("name", "changed"), [("encode", 0), ("observe", 0), ("step", 0), ("step", 1)]
)
def test_a_model_that_changes_its_arguments_is_caught(name: str, changed: int) -> None:
    def careless(self: Linear, *arguments: Tensor) -> Tensor:
        result = getattr(Linear, name)(self, *arguments)
        arguments[changed].add_(1.0)
        return result

    wrong = type("Wrong", (Linear,), {name: careless})()
    with pytest.raises(AssertionError, match=rf"{name}\(…\) changed an argument"):
        check_world_model(wrong, OBSERVATION)


def test_a_loss_with_noise_of_its_own_is_caught() -> None:
    class Wrong(Linear):
        calls = 0

        def loss(self, batch: SequenceBatch, generator: torch.Generator) -> LossRecord:
            self.calls += 1
            return super().loss(batch, torch.Generator().manual_seed(self.calls))

    with pytest.raises(AssertionError, match="loss with an equal generator"):
        check_world_model(Wrong(), OBSERVATION)


class Pushed(torch.nn.Module):
    """Dynamics and an objective that have a parameter each."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.strength = torch.nn.Parameter(torch.tensor(0.3, dtype=dtype))

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        return state + self.strength.to(state) * action

    def cost(self, states: Tensor, actions: Tensor) -> Tensor:
        distance = (self.strength * (states - 1.0)).square().sum((-1, -2))
        return distance + 0.1 * actions.square().sum((-1, -2))


START = torch.zeros(2, 2, dtype=torch.float64)


def pushed(dynamics: Callable[..., Tensor], objective: object = None) -> object:
    goal = dp.objectives.GoalDistance(torch.ones(2).double())
    box = dp.Box([-1.0] * 2, [1.0] * 2)
    return dp.PlanningProblem(dynamics, objective or goal, box)


def check(problem: object, **options: object) -> dp.testing.GradientReport:
    planner = options.pop("planner", dp.GradMPC(2, iterations=3))
    return check_gradients(planner, problem, START, verbose=False, **options)


def test_parameters_behind_partials_and_methods_are_checked() -> None:
    problem = pushed(partial(Pushed().step), Pushed().cost)
    names = {row.name for row in check(problem).rows}
    assert names == {"state", "dynamics.strength", "objective.strength"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wrt": {"state": START.clone().requires_grad_()}}, "always is added"),
        ({"wrt": {"start": START}}, "always is added"),
        ({"wrt": {"goal": torch.ones(2).requires_grad_()}}, "goal: .* float64"),
        ({"directions": 0}, "directions"),
        ({"directions": -3}, "directions"),
        ({"order": 7}, "order: expected 1 or 2"),
        ({"planner": dp.GradMPC(2, gradient=dp.Detach())}, "actions are constants"),
    ],
)
def test_gradients_that_cannot_be_checked_are_refused(
    options: dict[str, object], words: str
) -> None:
    with pytest.raises(ArgumentError, match=words):
        check(pushed(Pushed().step), **options)


def test_a_parameter_in_float32_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"dynamics\.strength: .* float64"):
        check(pushed(Pushed(torch.float32).step))


def test_a_plan_without_the_graph_that_is_declared_is_caught() -> None:
    class Cut(dp.GradMPC):
        def solve(self, request):  # noqa: ANN001, ANN202
            solution = super().solve(request)
            return replace(solution, actions=solution.actions.detach())

    with pytest.raises(AssertionError, match="has no graph although"):
        check(pushed(Pushed().step), planner=Cut(2, iterations=3))
