"""The recipes of `docs/recipes_sampling.md` do what the page says."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import diffplan as dp
from diffplan.planners.sampling import Search
from diffplan.testing._batches import check_batches
from diffplan.testing._planners import check_bounds, check_randomness

PAGE = Path(__file__).parents[1] / "docs" / "recipes_sampling.md"
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The names that the page's code defines."""
    names: dict[str, Any] = {"__name__": "page"}
    for code in CODE.findall(PAGE.read_text(encoding="utf-8")):
        exec(compile(code, PAGE.name, "exec"), names)
    return names


def seen_by(planner: dp.Planner, problem: object, state: torch.Tensor) -> list[Any]:
    """The iterates of a plan."""
    seen: list[Any] = []
    planner(problem, state, callback=seen.append)
    return seen


def test_proposals_have_the_covariance_and_are_clipped(page: dict[str, Any]) -> None:
    covariance, count = page["covariance"], 40000
    planner = page["CorrelatedMPPI"](1, covariance, num_samples=count, iterations=1)
    problem, state = page["problem"], page["state"][:1]
    noise = planner.draw_noise(problem, state)
    search = Search(torch.zeros(1, 1, 2), torch.ones(1, 1, 2))
    proposed = planner.propose(search, noise[:, 0], 0)
    got = torch.cov(proposed[0, :, 0].T)
    # The variance of a sample covariance is (σ_ii σ_jj + σ_ij²) / n.
    spread = covariance.diagonal()
    deviation = ((spread[:, None] * spread + covariance.square()) / count).sqrt()
    assert ((got - covariance).abs() < 5 * deviation).all()
    (tried,) = seen_by(planner, problem, state)
    torch.testing.assert_close(tried.actions, proposed.clamp(-1, 1))
    assert (tried.actions.abs() == 1).any()


def test_the_null_action_is_tried(page: dict[str, Any]) -> None:
    planner = page["WithNull"](10, iterations=2, num_samples=20)
    for iterate in seen_by(planner, page["problem"], page["state"]):
        assert iterate.actions.shape[1] == 21
        assert (iterate.actions[:, -1] == 0).all()


def test_plans_of_another_planner_are_among_the_candidates(
    page: dict[str, Any],
) -> None:
    inner = dp.ILQR(10)
    planner = page["WithPlansOf"](10, [inner], num_samples=20, num_elites=2)
    problem, state = page["problem"], page["state"]
    known = inner(problem, state)
    for iterate in seen_by(planner, problem, state):
        torch.testing.assert_close(iterate.actions[:, -1], known.actions)
        assert (iterate.cost.amin(1) <= known.cost * (1 + 1e-5)).all()


def test_each_candidate_starts_where_it_is_told(page: dict[str, Any]) -> None:
    starts = page["starts"]
    planner = page["FromPlans"](starts, iterations=2, keep_best=False)
    first = seen_by(planner, page["problem"], page["state"])[0]
    torch.testing.assert_close(first.actions, starts.expand(3, -1, -1, -1))


def test_langevin_noise_has_its_variance(page: dict[str, Any]) -> None:
    # Without a slope, iterates in an open box are a random walk of variance 2ητ a step.
    free = dp.PlanningProblem(
        page["push"],
        lambda states, actions: 0 * states.sum((-1, -2)) + 0 * actions.sum((-1, -2)),
        dp.Box([-torch.inf] * 2, [torch.inf] * 2),
    )
    options = {"num_starts": 2000, "iterations": 3, "keep_best": False}
    planner = page["Langevin"](2, step_size=0.2, **options)
    walk = torch.stack(
        [iterate.actions for iterate in seen_by(planner, free, page["state"])]
    )
    jumps = walk.diff(dim=0)
    count, variance = jumps.numel(), 2 * 0.2 * planner.heat
    assert abs(float(jumps.var() / variance) - 1) < 5 * (2 / count) ** 0.5
    assert abs(float(jumps.mean())) < 5 * (variance / count) ** 0.5
    between = (jumps[0] * jumps[1]).mean() / variance
    assert abs(float(between)) < 5 * (2 / count) ** 0.5
    small = page["Langevin"](3, num_starts=4, iterations=3)
    for check in (check_bounds, check_batches, check_randomness):
        check(small, *dp.testing.point_mass_problem())


def test_the_price_has_a_gradient(page: dict[str, Any]) -> None:
    assert page["weight"].grad.abs() > 0
