"""Blocks become the least-squares step that they describe; failures are repaired."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffplan.errors import ArgumentError, ShapeError
from diffplan.solvers import (
    BlockCholeskySolver,
    ChainBlocks,
    ChainSolver,
    ChainStep,
    RiccatiSolver,
    solve_with_retries,
)

solvers = pytest.mark.parametrize("solver", [RiccatiSolver(), BlockCholeskySolver()])


def random_blocks(batch: tuple[int, ...], seed: int = 0) -> ChainBlocks:
    """Draw blocks in float64: horizon 4, state 3, action 2."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*batch, *shape, generator=generator, dtype=torch.float64)

    return ChainBlocks(
        state_jacobian=0.5 * draw(4, 3, 3),
        action_jacobian=draw(4, 3, 2),
        defect=draw(4, 3),
        transition_weight=1.0 + draw(4).square(),
        residual=draw(4, 2),
        stage_state_jacobian=draw(4, 2, 3),
        stage_action_jacobian=draw(4, 2, 2),
        terminal_residual=draw(1),
        terminal_jacobian=draw(1, 3),
        limit_residual=draw(4, 2),
        limit_slope=draw(4, 2).sign().clamp(min=0.0),
        limit_weight=draw(4).square(),
        damping=torch.full(batch, 1e-2, dtype=torch.float64),
    )


def cost(blocks: ChainBlocks, states: Tensor, actions: Tensor) -> Tensor:
    """The sum of squares, written as in the class's docstring."""
    before = torch.nn.functional.pad(states, (0, 0, 1, 0))

    def product(matrix: Tensor, vector: Tensor) -> Tensor:
        return torch.einsum("...ij,...j->...i", matrix, vector)

    left = (
        states
        - product(blocks.state_jacobian, before[..., :-1, :])
        - product(blocks.action_jacobian, actions)
        + blocks.defect
    )
    stage = (
        blocks.residual
        + product(blocks.stage_state_jacobian, before[..., :-1, :])
        + product(blocks.stage_action_jacobian, actions)
    )
    end = blocks.terminal_residual + product(
        blocks.terminal_jacobian, states[..., -1, :]
    )
    limit = blocks.limit_residual + blocks.limit_slope * actions
    return (
        (blocks.transition_weight * left.square().sum(-1)).sum(-1)
        + stage.square().sum((-1, -2))
        + end.square().sum(-1)
        + (blocks.limit_weight * limit.square().sum(-1)).sum(-1)
        + blocks.damping * (states.square().sum((-1, -2)))
        + blocks.damping * (actions.square().sum((-1, -2)))
    )


@solvers
@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
def test_step_is_where_the_cost_is_stationary(
    solver: ChainSolver, batch: tuple[int, ...]
) -> None:
    blocks = random_blocks(batch)
    step = solver(blocks)
    states = step.states.clone().requires_grad_()
    actions = step.actions.clone().requires_grad_()
    value = cost(blocks, states, actions)
    for gradient in torch.autograd.grad(value.sum(), (states, actions)):
        torch.testing.assert_close(
            gradient, torch.zeros_like(gradient), rtol=0.0, atol=1e-10
        )
    assert step.ok.shape == batch
    assert (value < cost(blocks, 0.0 * states, 0.0 * actions)).all()


@solvers
def test_gradients_reach_every_block(solver: ChainSolver) -> None:
    blocks = random_blocks((2,))
    names = list(blocks.__dataclass_fields__)
    leaves = {name: getattr(blocks, name).clone().requires_grad_() for name in names}

    def loss(*tensors: Tensor) -> Tensor:
        step = solver(ChainBlocks(**dict(zip(names, tensors, strict=True))))
        return step.states.square().sum() + step.actions.square().sum()

    assert torch.autograd.gradcheck(loss, tuple(leaves.values()), fast_mode=True)


def test_disagreeing_shapes_name_the_argument() -> None:
    blocks = random_blocks((2,))
    with pytest.raises(ShapeError, match="defect"):
        replace(blocks, defect=blocks.defect[..., :2])
    with pytest.raises(ShapeError, match="limit_weight"):
        replace(blocks, limit_weight=blocks.limit_weight[:1])


@solvers
@pytest.mark.parametrize("stop_early", [None, True, False])
def test_retries_recover_an_indefinite_element_alone(
    solver: ChainSolver, stop_early: bool | None
) -> None:
    blocks = random_blocks((3,))
    # no cost on the first action's second part: singular without damping
    by_action = blocks.action_jacobian.clone()
    by_action[1, 0, :, 1] = 0.0
    stage = blocks.stage_action_jacobian.clone()
    stage[1, 0, :, 1] = 0.0
    slope = blocks.limit_slope.clone()
    slope[1, 0, 1] = 0.0
    damping = blocks.damping.clone()
    damping[1] = 0.0
    blocks = replace(
        blocks,
        action_jacobian=by_action,
        stage_action_jacobian=stage,
        limit_slope=slope,
        damping=damping,
    )
    first = solver(blocks)
    assert first.ok.tolist() == [True, False, True]
    assert not first.states[1].any()
    step = solve_with_retries(
        solver, blocks, minimum_damping=1e-4, factor=10.0, stop_early=stop_early
    )
    assert step.ok.all()
    expected = torch.tensor([1e-2, 1e-3, 1e-2], dtype=torch.float64)
    torch.testing.assert_close(step.damping, expected)
    repaired = solver(replace(blocks, damping=expected))
    torch.testing.assert_close(step.states, repaired.states)
    for element in (0, 2):
        assert torch.equal(step.states[element], first.states[element])
        assert torch.equal(step.actions[element], first.actions[element])


def test_an_element_beyond_repair_is_reported() -> None:
    blocks = random_blocks((2,))
    defect = blocks.defect.clone()
    defect[0, 0, 0] = float("nan")
    step = solve_with_retries(RiccatiSolver(), replace(blocks, defect=defect))
    assert step.ok.tolist() == [False, True]
    assert not step.states[0].any()


def test_retries_stop_as_soon_as_all_succeeded() -> None:
    calls = []

    def counting(blocks: ChainBlocks) -> ChainStep:
        calls.append(blocks.damping)
        return RiccatiSolver()(blocks)

    solve_with_retries(counting, random_blocks((2,)), attempts=4)
    assert len(calls) == 1
    solve_with_retries(counting, random_blocks((2,)), attempts=4, stop_early=False)
    assert len(calls) == 5


@pytest.mark.parametrize(
    ("name", "value"), [("attempts", 0), ("factor", 0.5), ("minimum_damping", 0.0)]
)
def test_wrong_retry_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(ArgumentError, match=name):
        solve_with_retries(RiccatiSolver(), random_blocks(()), **{name: value})
