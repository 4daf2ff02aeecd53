"""The public conformance checks: they pass what is right and catch what is not."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import diffplan as dp
from diffplan.models import RSSM
from diffplan.planners import CEM
from diffplan.planners.base import Solution
from diffplan.testing import check_planner, check_world_model


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
