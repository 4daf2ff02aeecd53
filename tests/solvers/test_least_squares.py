"""Levenberg-Marquardt on a chain, against scipy and against one dense step."""

import numpy as np
import pytest
import torch
from problems import pendulum, states_of
from scipy.optimize import least_squares
from torch import Tensor

from diffplan.errors import ArgumentError
from diffplan.planners.collocation._residuals import TrajectoryProblem
from diffplan.solvers import BlockCholeskySolver, ChainBlocks, RiccatiSolver
from diffplan.solvers._least_squares import (
    AdaptiveDamping,
    FixedDamping,
    Trajectory,
    levenberg_marquardt,
)

HORIZON = 6
WEIGHT = 50.0  # of the dynamics: soft, so that residuals stay at the optimum


def soft_pendulum(state: Tensor) -> tuple[TrajectoryProblem, Trajectory]:
    """Balance a pendulum with soft dynamics, from a random trajectory."""
    generator = torch.Generator().manual_seed(3)
    count = state.shape[0]
    shape = {"generator": generator, "dtype": torch.float64}
    start = Trajectory(
        torch.randn(count, HORIZON, 2, **shape), torch.randn(count, HORIZON, 1, **shape)
    )
    return TrajectoryProblem(pendulum(), state, "paper"), start


def blocks_of(
    problem: TrajectoryProblem, trajectory: Trajectory, damping: Tensor
) -> ChainBlocks:
    """Weigh the dynamics with `WEIGHT` and leave action limits out."""
    weight = torch.full_like(trajectory.states[..., 0], WEIGHT)
    linearization = problem.linearize(trajectory)
    return linearization.weigh(weight, torch.zeros_like(weight), damping)


def stacked(problem: TrajectoryProblem, trajectory: Trajectory) -> Tensor:
    """All residuals of one trajectory, written out: `[rows]`."""
    residuals = problem.residuals(trajectory)
    objective = problem.objective
    states = torch.cat([problem.state[:, None], trajectory.states], dim=1)
    stage = objective.running_residual(states[:, :-1], trajectory.actions)
    parts = [
        WEIGHT**0.5 * residuals.defect,
        stage,
        objective.terminal_residual(states[:, -1]),
    ]
    return torch.cat([part.flatten() for part in parts]).detach()


@pytest.mark.parametrize("solver", [RiccatiSolver(), BlockCholeskySolver()])
def test_adaptive_damping_finds_the_minimum_that_scipy_finds(solver: object) -> None:
    state = states_of(2)
    problem, start = soft_pendulum(state)

    def linearize(
        trajectory: Trajectory, carry: None, damping: Tensor
    ) -> tuple[ChainBlocks, None]:
        return blocks_of(problem, trajectory, damping), carry

    def cost(trajectory: Trajectory, carry: None) -> Tensor:
        residuals = problem.residuals(trajectory)
        return WEIGHT * residuals.dynamics_violation.sum(1) + 2 * residuals.cost

    with torch.no_grad():
        found, _, report = levenberg_marquardt(
            linearize,
            start,
            None,
            iterations=60,
            damping=AdaptiveDamping(),
            solver=solver,
            cost=cost,
        )
    assert not report.failed.any()
    for index in range(2):
        one, _ = soft_pendulum(state[index : index + 1])

        def residuals(flat: np.ndarray, one: TrajectoryProblem = one) -> np.ndarray:
            values = torch.from_numpy(flat).view(1, HORIZON, 3)
            return stacked(one, Trajectory(values[..., :2], values[..., 2:])).numpy()

        begin = torch.cat([start.states, start.actions], -1)[index].flatten()
        best = least_squares(
            residuals, begin.numpy(), xtol=1e-15, ftol=1e-15, gtol=1e-14
        )
        ours = torch.cat([found.states, found.actions], -1)[index].flatten()
        torch.testing.assert_close(ours, torch.from_numpy(best.x), rtol=1e-6, atol=1e-6)


def test_one_fixed_step_is_the_dense_damped_step() -> None:
    problem, start = soft_pendulum(states_of(1))

    def linearize(
        trajectory: Trajectory, carry: None, damping: Tensor
    ) -> tuple[ChainBlocks, None]:
        return blocks_of(problem, trajectory, damping), carry

    moved, _, _ = levenberg_marquardt(
        linearize,
        start,
        None,
        iterations=1,
        damping=FixedDamping(0.3),
        solver=RiccatiSolver(),
    )

    def residuals(flat: Tensor) -> Tensor:
        values = flat.view(1, HORIZON, 3)
        trajectory = Trajectory(values[..., :2], values[..., 2:])
        defect = problem.residuals(trajectory).defect
        states = torch.cat([problem.state[:, None], trajectory.states], dim=1)
        stage = problem.objective.running_residual(states[:, :-1], trajectory.actions)
        end = problem.objective.terminal_residual(states[:, -1])
        parts = [WEIGHT**0.5 * defect, stage, end]
        return torch.cat([part.flatten() for part in parts])

    flat = torch.cat([start.states, start.actions], -1).flatten()
    jacobian = torch.autograd.functional.jacobian(residuals, flat)
    matrix = jacobian.T @ jacobian + 0.3 * torch.eye(len(flat), dtype=flat.dtype)
    step = torch.linalg.solve(matrix, jacobian.T @ residuals(flat))
    found = torch.cat([moved.states, moved.actions], -1).flatten()
    torch.testing.assert_close(found, flat - step, rtol=1e-10, atol=1e-10)


def test_a_singular_element_goes_on_with_more_damping_and_alone() -> None:
    problem, start = soft_pendulum(states_of(2))
    seen: list[Tensor] = []

    def linearize(
        trajectory: Trajectory, carry: None, damping: Tensor
    ) -> tuple[ChainBlocks, None]:
        seen.append(damping)
        blocks = blocks_of(problem, trajectory, damping)
        # Element 1: its actions change nothing and cost nothing.
        harmless = torch.tensor([1.0, 0.0], dtype=torch.float64)[:, None, None, None]
        return ChainBlocks(
            **{
                **vars(blocks),
                "action_jacobian": blocks.action_jacobian * harmless,
                "stage_action_jacobian": blocks.stage_action_jacobian * harmless,
            }
        ), carry

    moved, _, report = levenberg_marquardt(
        linearize,
        start,
        None,
        iterations=3,
        damping=FixedDamping(0.0),
        solver=RiccatiSolver(),
    )
    assert torch.stack(seen)[:, 0].tolist() == [0.0, 0.0, 0.0]
    assert torch.stack(seen)[:, 1].tolist() == pytest.approx([0.0, 1e-5, 0.0])
    assert report.failed.tolist() == [False, True]
    assert torch.isfinite(moved.states).all()
    assert (moved.states[1] != start.states[1]).any()  # the damped step was taken


def test_adaptive_damping_needs_a_cost() -> None:
    problem, start = soft_pendulum(states_of(1))
    with pytest.raises(ArgumentError, match="cost"):
        levenberg_marquardt(
            lambda trajectory, carry, damping: (
                blocks_of(problem, trajectory, damping),
                carry,
            ),
            start,
            None,
            iterations=1,
            damping=AdaptiveDamping(),
            solver=RiccatiSolver(),
        )
