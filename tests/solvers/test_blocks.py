"""Blocks become the least-squares step that they describe; failures are repaired."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffplan.errors import ShapeError
from diffplan.solvers import (
    BlockCholeskySolver,
    ChainBlocks,
    ChainSolver,
    RiccatiSolver,
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
