"""Random chain problems and their dense oracles, for the solvers' tests."""

import torch
from torch import Tensor

from diffplan.functional._chain import ChainRightHandSide, ChainSolution, ChainSystem
from diffplan.functional.block_tridiagonal import normal_equations_factorize
from diffplan.functional.riccati import riccati_factorize


def random_chain(
    batch: tuple[int, ...],
    horizon: int,
    size: int,
    actions: int,
    rows: int = 1,
    end_rows: int = 1,
    *,
    seed: int,
    steepness: float = 1.0,
) -> tuple[ChainSystem, ChainRightHandSide]:
    """Draw a stable, well-scaled problem in float64 (spectral radius about 1).

    Args:
        batch: Leading dimensions.
        horizon: T.
        size: State dimension.
        actions: Action dimension.
        rows: Residuals of each stage.
        end_rows: Residuals of the last state.
        seed: Of all draws.
        steepness: Length of a residual's gradient with respect to the state. With the
            damping it sets how well any method in float32 can do: 1 costs three of
            seven digits, to QR as well.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*batch, *shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*batch, *shape, generator=generator, dtype=torch.float64)

    root = size**0.5
    system = ChainSystem(
        state_jacobian=draw(horizon, size, size) / root,
        action_jacobian=draw(horizon, size, actions) / root,
        transition_weight=0.5 + uniform(horizon),
        stage_state_jacobian=steepness * draw(horizon, rows, size) / root,
        stage_action_jacobian=0.3 * draw(horizon, rows, actions),
        terminal_jacobian=steepness * draw(end_rows, size) / root,
        action_curvature=uniform(horizon, actions).round(),
        damping=torch.full(batch, 5e-4, dtype=torch.float64),
    )
    # linear terms of residuals r: b = -G'r, as in every least-squares problem
    stage, end = draw(horizon, 1, rows), draw(1, end_rows)
    by_state = torch.cat(
        (
            (stage @ system.stage_state_jacobian)[..., 1:, 0, :],
            end @ system.terminal_jacobian,
        ),
        -2,
    )
    limit = 0.3 * system.action_curvature * draw(horizon, actions)
    by_action = (stage @ system.stage_action_jacobian)[..., 0, :] + limit
    rhs = ChainRightHandSide(
        defect=0.1 * draw(horizon, size), states=-by_state, actions=-by_action
    )
    return system, rhs


def _dynamics_rows(system: ChainSystem) -> Tensor:
    """The Jacobian of the transitions over (x_1 … x_T, u_0 … u_{T-1}), dense."""
    batch, horizon, size, actions = system.action_jacobian.shape
    rows = torch.zeros(batch, horizon * size, horizon * (size + actions)).to(
        system.damping
    )
    for t in range(horizon):
        here = slice(t * size, (t + 1) * size)
        rows[:, here, here] = torch.eye(size).to(rows)
        if t > 0:
            before = slice((t - 1) * size, t * size)
            rows[:, here, before] = -system.state_jacobian[:, t]
        moved = slice(horizon * size + t * actions, horizon * size + (t + 1) * actions)
        rows[:, here, moved] = -system.action_jacobian[:, t]
    return rows


def _cost_rows(system: ChainSystem) -> Tensor:
    """The Jacobian of stage costs, action curvature and damping, dense."""
    batch, horizon, size, actions = system.action_jacobian.shape
    width = horizon * (size + actions)
    blocks = []
    for t in range(horizon):
        row = system.damping.new_zeros(
            batch, system.stage_state_jacobian.shape[2], width
        )
        if t > 0:
            row[:, :, (t - 1) * size : t * size] = system.stage_state_jacobian[:, t]
        start = horizon * size + t * actions
        row[:, :, start : start + actions] = system.stage_action_jacobian[:, t]
        blocks.append(row)
        curvature = system.damping.new_zeros(batch, actions, width)
        curvature[:, :, start : start + actions] = torch.diag_embed(
            system.action_curvature[:, t].sqrt()
        )
        blocks.append(curvature)
    end = system.damping.new_zeros(batch, system.terminal_jacobian.shape[1], width)
    end[:, :, (horizon - 1) * size : horizon * size] = system.terminal_jacobian
    blocks.append(end)
    damping = system.damping.sqrt()[:, None, None]
    blocks.append(damping * torch.eye(width).to(damping))
    return torch.cat(blocks, 1)


def _split(flat: Tensor, system: ChainSystem) -> tuple[Tensor, Tensor]:
    _, horizon, size, actions = system.action_jacobian.shape
    states, moves = flat.split((horizon * size, horizon * actions), -1)
    return states.unflatten(-1, (horizon, size)), moves.unflatten(
        -1, (horizon, actions)
    )


def dense_step(system: ChainSystem, rhs: ChainRightHandSide) -> tuple[Tensor, Tensor]:
    """Solve the dense normal equations (batch dimension `[B]`, float64)."""
    dynamics, costs = _dynamics_rows(system), _cost_rows(system)
    size = system.state_jacobian.shape[-1]
    weight = system.transition_weight.repeat_interleave(size, 1)[..., None]
    matrix = dynamics.mT @ (weight * dynamics) + costs.mT @ costs
    linear = torch.cat((rhs.states.flatten(1), rhs.actions.flatten(1)), 1)[..., None]
    linear = linear - dynamics.mT @ (weight * rhs.defect.flatten(1)[..., None])
    # On one thread: MKL's LU factorisation (2024.2, in PyTorch 2.13) gives wrong pivots
    # or hangs on two where the cores have other work. Its Cholesky and QR do not.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    solution = torch.linalg.solve(matrix, linear)
    torch.set_num_threads(threads)
    return _split(solution.squeeze(-1), system)


def stacked_qr_step(
    system: ChainSystem, rhs: ChainRightHandSide
) -> tuple[Tensor, Tensor]:
    """Solve by QR of the stacked Jacobian, which never squares a condition number.

    The linear terms b enter as the residual that the damping rows would need.
    """
    dynamics, costs = _dynamics_rows(system), _cost_rows(system)
    size = system.state_jacobian.shape[-1]
    root = system.transition_weight.sqrt().repeat_interleave(size, 1)[..., None]
    stacked = torch.cat((root * dynamics, costs), 1)
    linear = torch.cat((rhs.states.flatten(1), rhs.actions.flatten(1)), 1)[..., None]
    linear = linear.to(stacked)
    target = torch.zeros_like(stacked[..., :1])
    target[:, : root.shape[1]] = -root * rhs.defect.flatten(1)[..., None].to(stacked)
    target[:, -linear.shape[1] :] += linear / system.damping.sqrt()[:, None, None]
    orthogonal, triangle = torch.linalg.qr(stacked)
    flat = torch.linalg.solve_triangular(triangle, orthogonal.mT @ target, upper=True)
    return _split(flat.squeeze(-1), system)


def relative_error(step: ChainSolution, states: Tensor, actions: Tensor) -> float:
    """Largest relative error of a whole step over the batch."""
    error = torch.cat(
        ((step.states - states).flatten(1), (step.actions - actions).flatten(1)), 1
    )
    size = torch.cat((states.flatten(1), actions.flatten(1)), 1)
    return (error.norm(dim=1) / size.norm(dim=1)).max().item()


def riccati_step(
    system: ChainSystem, rhs: ChainRightHandSide, **settings: int
) -> ChainSolution:
    """Factor and solve."""
    factor = riccati_factorize(system, **settings)
    return factor.solve(rhs.states, rhs.actions, rhs.defect)


def normal_equations_step(
    system: ChainSystem, rhs: ChainRightHandSide
) -> ChainSolution:
    """Factor and solve."""
    factor = normal_equations_factorize(system)
    return factor.solve(rhs.states, rhs.actions, rhs.defect)
