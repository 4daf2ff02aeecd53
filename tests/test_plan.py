"""The record that every planner answers with."""

import io

import pytest
import torch

import diffplan as dp
from diffplan.errors import (
    ArgumentError,
    BatchIndexError,
    ShapeError,
    TensorTypeError,
)


def make(
    batch: tuple[int, ...] = (2,), horizon: int = 3, offset: float = 0.0
) -> dp.Plan:
    """A plan whose actions are 0, 1, … T-1 and whose states are 0, 1, … T."""
    actions = torch.arange(float(horizon)).reshape(horizon, 1) + offset
    states = torch.arange(horizon + 1.0).reshape(horizon + 1, 1) + offset
    return dp.Plan(
        actions=actions.expand(*batch, horizon, 1).clone(),
        states=states.expand(*batch, horizon + 1, 1).clone(),
        cost=torch.full(batch, offset),
        diagnostics={"cost": torch.full((*batch, 5), offset)},
        memory={
            "std": actions.expand(*batch, horizon, 1) + 10,
            "damping": torch.full((*batch, 1, 1), 7.0),
        },
    )


def test_defaults_and_views() -> None:
    plan = make((4, 2))
    assert plan.horizon == 3
    assert plan.batch_shape == (4, 2)
    assert torch.equal(plan.action, torch.zeros(4, 2, 1))
    assert plan.status.shape == plan.iterations.shape == (4, 2)
    assert plan.succeeded.all()


@pytest.mark.parametrize(
    ("steps", "actions", "states"),
    [
        (0, [0, 1, 2], [0, 1, 2, 3]),
        (1, [1, 2, 2], [1, 2, 3, 3]),
        (2, [2, 2, 2], [2, 3, 3, 3]),
        (3, [2, 2, 2], [3, 3, 3, 3]),
        (9, [2, 2, 2], [3, 3, 3, 3]),
    ],
)
def test_shifting_repeats_the_tail(
    steps: int, actions: list[int], states: list[int]
) -> None:
    plan = make().shifted(steps)
    assert plan.actions[0].flatten().tolist() == actions
    assert plan.states[1].flatten().tolist() == states
    assert (plan.memory["std"][0].flatten() - 10).tolist() == actions
    assert plan.memory["damping"].flatten().tolist() == [7.0, 7.0]


def test_a_horizon_of_one_can_be_shifted() -> None:
    assert make(horizon=1).shifted().actions.flatten().tolist() == [0.0, 0.0]


def test_shifting_backwards_is_refused() -> None:
    with pytest.raises(ArgumentError, match="steps"):
        make().shifted(-1)


def test_where_takes_each_element_from_one_plan() -> None:
    mask = torch.tensor([True, False])
    mixed = make().where(mask, make(offset=100.0))
    assert mixed.cost.tolist() == [0.0, 100.0]
    assert mixed.action.flatten().tolist() == [0.0, 100.0]
    assert mixed.states[:, -1].flatten().tolist() == [3.0, 103.0]
    assert mixed.memory["std"][:, 0].flatten().tolist() == [10.0, 110.0]
    assert mixed.diagnostics["cost"][:, 0].tolist() == [0.0, 100.0]


def test_where_refuses_another_batch() -> None:
    with pytest.raises(ShapeError, match="mask"):
        make().where(torch.tensor([True]), make())
    with pytest.raises(ShapeError, match="other"):
        make().where(torch.tensor([True, False]), make((3,)))


def test_indexing_touches_batch_dimensions_only() -> None:
    plan = make((4, 2))[1]
    assert plan.batch_shape == (2,)
    assert plan.actions.shape == (2, 3, 1)
    assert plan.memory["std"].shape == (2, 3, 1)
    assert make((4,))[1:3].states.shape == (2, 4, 1)


def test_detach_cuts_every_graph() -> None:
    plan = make().map(lambda t: t.requires_grad_() if t.is_floating_point() else t)
    cut = plan.detach()
    tensors = [cut.actions, cut.states, cut.cost, *cut.memory.values()]
    assert not any(tensor.requires_grad for tensor in tensors)


def test_explain_counts_and_advises() -> None:
    plan = make((4,))
    status = torch.tensor([dp.Status.COMPLETED, dp.Status.ITERATION_LIMIT] * 2)
    plan = dp.Plan(plan.actions, plan.states, plan.cost, status)
    lines = plan.explain().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("2 of 4 plans used all `iterations`")
    assert plan.succeeded.tolist() == [True, False, True, False]


@pytest.mark.parametrize("status", list(dp.Status))
def test_every_status_has_an_explanation(status: dp.Status) -> None:
    plan = make((1,))
    explained = dp.Plan(plan.actions, plan.states, plan.cost, torch.tensor([status]))
    assert explained.explain().startswith("1 of 1 plans ")


def test_saving_with_weights_only() -> None:
    plan, file = make(), io.BytesIO()
    torch.save(plan, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert torch.equal(loaded.actions, plan.actions)
    assert torch.equal(loaded.memory["std"], plan.memory["std"])


def test_a_plan_is_a_pytree() -> None:
    leaves, _ = torch.utils._pytree.tree_flatten(make())
    assert len(leaves) == 5 + 1 + 2
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)


def test_only_the_batch_is_indexed() -> None:
    plan = make((4, 2))
    for index, lead in (
        (0, (2,)),
        ((..., 0), (4,)),
        ((slice(1, 3), 1), (2,)),
        ((0, ...), (2,)),
        ((0, 1, ...), ()),
        ((None, 0), (1, 2)),
        ((..., None), (4, 2, 1)),
        ([0, 3, 1], (3, 2)),
        (torch.tensor([True, False, True, True]), (3, 2)),
        (torch.tensor([[True, False]] * 4), (4,)),
        ((torch.tensor([2, 0]), torch.tensor([1, 1])), (2,)),
    ):
        part = plan[index]
        assert part.batch_shape == lead
        assert part.actions.shape == (*lead, 3, 1)
        assert part.states.shape == (*lead, 4, 1)
        assert part.memory["damping"].shape == (*lead, 1, 1)
        assert part.diagnostics["cost"].shape == (*lead, 5)
        expected = plan.cost[index]
        assert torch.equal(part.cost, expected)
    assert len(list(make((3,)))) == 3  # iterating ends


@pytest.mark.parametrize("index", [(0, 0, 0), (..., 0, 0, 0), (..., ...), 4, "cost"])
def test_an_index_of_other_dimensions_is_refused(index: object) -> None:
    with pytest.raises(BatchIndexError, match="plan"):
        make((4, 2))[index]
    with pytest.raises(BatchIndexError, match="plan"):
        make(())[0]


def test_choosing_between_plans_of_other_sizes_is_refused() -> None:
    mask = torch.tensor([True, False])
    with pytest.raises(ShapeError, match=r"other\.actions"):
        make().where(mask, make(horizon=4))
    with pytest.raises(ShapeError, match=r"other\.actions"):
        make(horizon=4).where(mask, make(horizon=1))  # would broadcast
    other = make(offset=2.0)
    other.memory["std"] = other.memory["std"][:, :1]
    with pytest.raises(ShapeError, match="memory"):
        make().where(mask, other)
    with pytest.raises(TensorTypeError, match="mask"):
        make().where(mask.long(), make())


def test_traces_of_another_length_are_left_out() -> None:
    other = make(offset=2.0)
    other.diagnostics["cost"] = torch.zeros(2, 9)
    chosen = make().where(torch.tensor([True, False]), other)
    assert chosen.diagnostics == {}
    assert chosen.actions[:, 0, 0].tolist() == [0.0, 2.0]


def test_a_plan_moves_to_another_dtype_but_counts_stay_whole() -> None:
    plan = make()
    plan.memory["count"] = torch.zeros(2, 1, 1, dtype=torch.long)
    moved = plan.to(torch.zeros(1, dtype=torch.float64))
    assert moved.actions.dtype == moved.memory["std"].dtype == torch.float64
    assert moved.memory["count"].dtype == moved.status.dtype == torch.long
    whole = dp.Plan(plan.actions.long(), plan.states, plan.cost)
    assert torch.equal(whole.to(plan.cost).actions, plan.actions)


@pytest.mark.parametrize("steps", [-1, 1.0, 1.5, True, "1", None, 10**30])
def test_steps_ahead_are_counted(steps: object) -> None:
    plan = make()
    with pytest.raises((ArgumentError, TypeError), match="steps"):
        plan.shifted(steps)


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_the_end_of_a_shifted_plan_is_filled(steps: int) -> None:
    actions = torch.arange(24.0).reshape(2, 4, 3)
    plan = dp.Plan(actions, torch.zeros(2, 5, 1), torch.zeros(2))
    tail = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64)
    got = plan.shifted(steps, fill=tail).actions
    every = torch.cat([actions, tail.float().expand(2, steps, 3)], dim=1)
    assert torch.equal(got, every[:, -4:])
    each = torch.rand(2, steps, 3)
    every = torch.cat([actions, each], dim=1)
    assert torch.equal(plan.shifted(steps, fill=each).actions, every[:, -4:])


def test_a_fill_of_another_shape_is_refused() -> None:
    plan = dp.Plan(torch.zeros(2, 4, 3), torch.zeros(2, 5, 1), torch.zeros(2))
    assert torch.equal(plan.shifted(0, fill=torch.ones(3)).actions, plan.actions)
    with pytest.raises(ShapeError, match="fill"):
        plan.shifted(1, fill=torch.zeros(2))
    with pytest.raises(ShapeError, match="fill"):
        plan.shifted(2, fill=torch.zeros(2, 3, 3))
    with pytest.raises(TypeError, match="fill"):
        plan.shifted(1, fill=0.0)
