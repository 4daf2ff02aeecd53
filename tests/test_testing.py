"""The public checks of planners: they pass what is right and catch what is not."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_functions import Identity
from torch import Tensor

import diffplan as dp
from diffplan.planners import CEM
from diffplan.planners.base import Solution
from diffplan.planners.request import PlanRequest
from diffplan.testing import check_planner, point_mass_problem
from diffplan.testing._contexts import check_contexts
from diffplan.testing._planners import check_bounds, check_purity


def cem() -> CEM:
    return CEM(horizon=3, num_samples=16, num_elites=4, iterations=2)


def test_a_right_planner_passes() -> None:
    check_planner(cem())


Defect = Callable[[Solution, PlanRequest], Solution]


def global_noise(solution: Solution, request: PlanRequest) -> Solution:
    torch.rand(1)
    return solution


def shared_mean(solution: Solution, request: PlanRequest) -> Solution:
    return replace(
        solution, actions=solution.actions.mean(0).expand_as(solution.actions)
    )


def short(solution: Solution, request: PlanRequest) -> Solution:
    return replace(solution, actions=solution.actions[:, 1:])


def in_place(solution: Solution, request: PlanRequest) -> Solution:
    request.state.add_(1.0)
    return solution


def flat_memory(solution: Solution, request: PlanRequest) -> Solution:
    return replace(solution, memory={"std": solution.memory["std"][:, 0]})


def numpys_noise(solution: Solution, request: PlanRequest) -> Solution:
    moved = solution.actions + 1e-6 * float(np.random.rand())
    return replace(solution, actions=moved)


def fewer_threads(solution: Solution, request: PlanRequest) -> Solution:
    torch.set_num_threads(torch.get_num_threads() % 2 + 1)
    return solution


def noise_in_place(solution: Solution, request: PlanRequest) -> Solution:
    request.noise.zero_()
    return solution


def iterations_below_zero(solution: Solution, request: PlanRequest) -> Solution:
    return replace(solution, iterations=-3)


def other_in_inference_mode(solution: Solution, request: PlanRequest) -> Solution:
    share = 0.5 if torch.is_inference_mode_enabled() else 1.0
    return replace(solution, actions=share * solution.actions)


def none_in_inference_mode(solution: Solution, request: PlanRequest) -> Solution:
    if torch.is_inference_mode_enabled():
        raise RuntimeError("no version counter")
    return solution


class Halved(Identity):
    """The same number, but under vmap."""

    @staticmethod
    def vmap(info: object, dims: tuple[int], value: Tensor) -> tuple[Tensor, int]:
        return 0.5 * value, dims[0]


def halved_under_vmap(solution: Solution, request: PlanRequest) -> Solution:
    return replace(solution, actions=Halved.apply(solution.actions))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("defect", "words"),
    [
        (numpys_noise, "NumPy's global random state"),
        (fewer_threads, "the number of threads, which planning must leave alone"),
        (noise_in_place, "given noise was changed in place"),
        (iterations_below_zero, r"plan\.iterations: expected counts, got -3"),
        (other_in_inference_mode, r"plan\.actions with torch\.inference_mode\(\)"),
        (none_in_inference_mode, r"in torch\.inference_mode\(\): expected an answer"),
        (halved_under_vmap, r"plan\.actions with torch\.func\.vmap: differs"),
        (global_noise, "global random state"),
        (shared_mean, "neighbour in the batch"),
        (short, r"plan\.actions\.shape"),
        (in_place, r"states\[\.\.\., 0, :\]|in place"),
        (flat_memory, "memory"),
    ],
)
def test_a_wrong_planner_is_caught_in_words(defect: Defect, words: str) -> None:
    class Wrong(CEM):
        def solve(self, request):  # noqa: ANN001, ANN202
            return defect(super().solve(request), request)

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


class Turned(CEM):
    """Gives rows of a batch of two dimensions back in another order."""

    def forward(self, problem, state, **options):  # noqa: ANN001, ANN003, ANN201
        plan = super().forward(problem, state, **options)
        rows = state.shape[0] if state.ndim == 3 and state.shape[1] > 1 else 1
        return plan[torch.arange(rows - 1, -1, -1)] if rows > 1 else plan


class Explaining(CEM):
    """Keeps the graph of the model in what it reports."""

    def forward(self, problem, state, **options):  # noqa: ANN001, ANN003, ANN201
        plan = super().forward(problem, state, **options)
        return replace(plan, diagnostics={"end": plan.states[..., -1, 0]})


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Turned, r"problems \[\[2, 1, 0\], \[0, 1, 2\]\] alone: differs"),
        (Explaining, r"plan\.diagnostics\['end'\] has a graph although"),
    ],
)
def test_what_goes_wrong_around_a_search_is_caught(kind: type[CEM], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_planner(kind(3, num_samples=16, num_elites=4, iterations=2))


def test_a_planner_that_keeps_graphs_is_caught() -> None:
    class Hoarding(dp.GradMPC):
        last: Tensor | None = None

        def solve(self, request):  # noqa: ANN001, ANN202
            solution = super().solve(request)
            if solution.actions.requires_grad:
                self.last = solution.actions
            return solution

    with pytest.raises(AssertionError, match="a copy of the planner"):
        check_planner(Hoarding(2, iterations=2))


def test_a_constraint_that_is_broken_in_silence_is_caught() -> None:
    class Far(CEM):
        def forward(self, problem, state, **options):  # noqa: ANN001, ANN003, ANN202
            plan = super().forward(problem, state, **options)
            return replace(plan, actions=problem.action_space.high.expand(3, 3, 1))

    free, state = point_mass_problem()
    ball = [dp.constraints.Ball(0.3)]
    problem = dp.PlanningProblem(free.dynamics, free.objective, free.action_space, ball)
    check_bounds(cem(), problem, state)
    far = Far(3, num_samples=16, num_elites=4, iterations=2)
    with pytest.raises(AssertionError, match="expected status CONSTRAINT_VIOLATED"):
        check_bounds(far, problem, state)


def test_a_planner_that_cannot_be_mapped_passes() -> None:
    class Looking(CEM):
        def solve(self, request):  # noqa: ANN001, ANN202
            assert float(request.state.sum()) < 1e9  # torch refuses, under vmap
            return super().solve(request)

    looking = Looking(3, num_samples=16, num_elites=4, iterations=2)
    problem, state = point_mass_problem()
    with pytest.raises(RuntimeError, match="vmap"):
        torch.func.vmap(lambda one: looking(problem, one).cost)(state)
    check_contexts(looking, problem, state)


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
