"""What planners, problems and plans look like where they are printed or shown."""

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import planner_cases
import pytest
import torch
from torch import Tensor

import diffplan as dp
from diffplan.errors import TensorTypeError


def problem() -> dp.PlanningProblem:
    goal = dp.objectives.GoalDistance(torch.zeros(2))
    ball = dp.constraints.Ball(1.0)
    return dp.PlanningProblem(
        dp.models.Pendulum().step, goal, dp.Box([-1.0], [1.0]), [ball]
    )


@pytest.mark.parametrize("case", planner_cases.CASES, ids=lambda case: case.name)
def test_every_planner_is_one_line(case: planner_cases.PlannerCase) -> None:
    planner = case.build(3)
    told = repr(planner)
    assert told.startswith(f"{type(planner).__name__}(")
    assert "horizon=3" in told or "planner=" in told
    assert "\n" not in told
    assert len(told) < 250


def test_a_planner_shows_what_is_not_as_by_default() -> None:
    assert repr(dp.CEM(7)) == "CEM(horizon=7, gradient=Detach())"
    assert repr(dp.CEM(7, num_samples=300, iterations=2, initial_std=0.5)) == (
        "CEM(horizon=7, iterations=2, initial_std=0.5, gradient=Detach())"
    )
    implicit = dp.Implicit(on_failure="zero")
    assert repr(dp.ILQR(7, gradient=dp.Implicit())) == (
        "ILQR(horizon=7, gradient=Implicit())"
    )
    assert "gradient=Implicit(on_failure='zero')" in repr(dp.ILQR(7, gradient=implicit))
    learned = torch.nn.Parameter(torch.tensor(0.25))
    assert "temperature=0.25" in repr(dp.DCEM(7, temperature=learned))
    assert "initial_std=Tensor[2]" in repr(dp.CEM(7, initial_std=torch.ones(2)))
    wrapped = dp.AugmentedLagrangian(dp.LatCo(horizon=4))
    assert "planner=LatCo(horizon=4, gradient=Unroll())" in repr(wrapped)
    assert "(planner): CEM(horizon=7" in repr(
        torch.nn.ModuleDict({"planner": dp.CEM(7)})
    )


def test_a_problem_names_its_parts() -> None:
    assert repr(problem()) == (
        "PlanningProblem(dynamics=Pendulum.step, objective=GoalDistance, "
        "action_space=Box(low=[-1.0], high=[1.0]), action_constraints=[Ball])"
    )

    class Drift:
        def predict(self, state: Tensor, action: Tensor) -> torch.distributions.Normal:
            return torch.distributions.Normal(state + action, 0.1)

    goal = dp.objectives.GoalDistance(torch.zeros(9))
    wide = dp.Box([-1.0] * 9, [1.0] * 9)
    assert repr(dp.StochasticProblem(Drift(), goal, wide, num_particles=6)) == (
        "StochasticProblem(dynamics=Drift, objective=GoalDistance, action_space=Box, "
        "num_particles=6)"
    )


def make() -> dp.Plan:
    actions = torch.tensor([[[1.0], [-2.0]], [[0.0], [0.0]]], requires_grad=True)
    return dp.Plan(
        actions,
        torch.zeros(2, 3, 4),
        torch.tensor([0.5, 2.0]),
        torch.tensor([dp.Status.CONVERGED, dp.Status.ITERATION_LIMIT]),
        diagnostics={"cost": torch.zeros(2, 3)},
        memory={"plan_index": torch.ones(2, 1, 1, dtype=torch.int64)},
    )


def test_a_plan_says_what_it_holds_and_how_it_ended() -> None:
    assert repr(make()) == (
        "Plan(actions [2, 2, 1], states [2, 3, 4], cost 0.5 to 2, 1 CONVERGED, "
        "1 ITERATION_LIMIT, float32 on cpu, with a graph)"
    )
    assert "cost 0.5, 1 CONVERGED," in repr(make()[0])
    assert "cost nan," in repr(dp.Plan(*[torch.full((1, 1, 1), torch.nan)] * 3))
    assert repr(make()[:0]).startswith("Plan(actions [0, 2, 1], states [0, 3, 4], fl")


def test_a_plan_without_numbers_can_be_shown_too() -> None:
    shown = []

    def plan(state: Tensor) -> Tensor:
        answer = dp.CEM(2, num_samples=4, num_elites=2, iterations=1)(problem(), state)
        shown.append(repr(answer))
        return answer.cost

    torch.func.vmap(plan)(torch.zeros(3, 2))
    assert shown == ["Plan(actions [2, 1], states [3, 2], float32 on cpu)"]
    assert "float32 on meta" in repr(make().to("meta"))


def test_a_notebook_gets_a_picture_of_the_first_problem() -> None:
    shown = make()._repr_html_().replace("<br>", "<br/>")
    page = ElementTree.fromstring(f"<p>{shown}</p>")
    assert "raise `iterations`" in "".join(page.itertext())
    (curve,) = page.iter("polyline")
    # Actions 1 and -2, drawn downwards over 60 points: 0 and 60, zero at 20.
    assert curve.attrib["points"] == "0.0,0.0 240.0,60.0"
    (zero,) = page.iter("path")
    assert zero.attrib["d"].startswith("M0 20.0H")


def test_a_plan_moves_to_a_device_and_a_dtype() -> None:
    plan = make()
    double = plan.to(torch.float64)
    assert double.actions.dtype == double.diagnostics["cost"].dtype == torch.float64
    assert double.status.dtype == double.memory["plan_index"].dtype == torch.int64
    assert torch.equal(double.actions, plan.actions.double())
    for place in ("meta", torch.device("meta")):
        moved = plan.to(place)
        tensors = (moved.actions, moved.status, moved.memory["plan_index"])
        assert all(value.is_meta for value in tensors)
        assert moved.actions.dtype == torch.float32
    assert plan.cpu().actions.device.type == "cpu"
    with pytest.raises(TensorTypeError, match="like"):
        plan.to(torch.int64)
    with pytest.raises(TypeError, match="like"):
        plan.to(3)


def test_a_plan_becomes_arrays_that_numpy_saves() -> None:
    plan, file = make(), io.BytesIO()
    np.savez(file, **plan.numpy())
    file.seek(0)
    loaded = np.load(file)
    assert np.array_equal(loaded["actions"], plan.actions.detach().numpy())
    assert np.array_equal(loaded["status"], [0, 2])
    assert loaded["diagnostics.cost"].shape == (2, 3)
    assert loaded["memory.plan_index"].tolist() == [[[1]], [[1]]]
