"""The regulator as one quadratic program in all actions."""

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from diffplan.functional._condensed import (
    CondensedFactor,
    condensed,
    condensed_step,
)
from diffplan.functional._lqr_kkt import Vectors
from diffplan.functional.box_lqr import (
    IncrementalLQR,
    limited_rollout,
    limited_sweep,
)
from diffplan.functional.lqr import lqr_factorize

T, S, A = 5, 3, 2


def regulator(batch: int = 3, horizon: int = T) -> IncrementalLQR:
    """A random problem with cross terms."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator, dtype=torch.float64)

    def definite(*shape: int) -> Tensor:
        root = drawn(*shape)
        return root @ root.mT + 0.3 * torch.eye(shape[-1], dtype=torch.float64)

    return IncrementalLQR(
        action_jacobian=0.5 * drawn(horizon, S, A),
        state_jacobian=0.5 * drawn(horizon, S, S),
        hessian=definite(horizon, A + S, A + S),
        gradient=drawn(horizon, A + S),
        end_hessian=definite(S, S),
        end_gradient=drawn(S),
    )


def cost(problem: IncrementalLQR, actions: Tensor, damping: float) -> Tensor:
    """The cost `[B]` of increments `[B, T, A]`, by a loop over the steps."""
    state = torch.zeros_like(problem.end_gradient)
    total = 0.5 * damping * actions.square().sum((1, 2))
    for step, action in enumerate(actions.unbind(1)):
        both = torch.cat((action, state), -1)
        bent = torch.einsum("bij,bj->bi", problem.hessian[:, step], both)
        total = total + (both * (0.5 * bent + problem.gradient[:, step])).sum(-1)
        state = torch.einsum("bij,bj->bi", problem.state_jacobian[:, step], state)
        moved = torch.einsum("bij,bj->bi", problem.action_jacobian[:, step], action)
        state = state + moved
    bent = torch.einsum("bij,bj->bi", problem.end_hessian, state)
    return total + (state * (0.5 * bent + problem.end_gradient)).sum(-1)


def limits(size: float, batch: int = 3) -> Tensor:
    return torch.full((batch, T, A), size, dtype=torch.float64)


def test_hessian_and_gradient_are_those_of_the_cost() -> None:
    problem = regulator(batch=1)
    origin = torch.zeros(T * A, dtype=torch.float64)

    def of(flat: Tensor) -> Tensor:
        return cost(problem, flat.view(1, T, A), 0.0).squeeze(0)

    hessian = condensed(problem).hessian
    gradient = problem.slope(problem.costates()).flatten(1)
    torch.testing.assert_close(
        hessian[0], torch.autograd.functional.hessian(of, origin)
    )
    torch.testing.assert_close(
        gradient[0], torch.autograd.functional.jacobian(of, origin)
    )


@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("size", [100.0, 0.3, 0.05])
def test_the_step_is_the_minimum_in_the_box(size: float, look: bool) -> None:
    problem, damping = regulator(), 1e-3
    high = limits(size)
    amount = torch.full((3,), damping, dtype=torch.float64)
    step = condensed_step(problem, -high, high, amount, look=look)
    assert bool(step.ok.all())
    torch.testing.assert_close(
        step.decrease, -cost(problem, step.moves, damping), rtol=1e-9, atol=1e-10
    )
    for index in range(3):
        one = IncrementalLQR(*(part[index : index + 1] for part in problem))

        def value(flat: object, one: IncrementalLQR = one) -> tuple[float, object]:
            given = torch.as_tensor(flat).view(1, T, A).requires_grad_()
            (total,) = cost(one, given, damping)
            (slope,) = torch.autograd.grad(total, given)
            return total.item(), slope.flatten().numpy()

        least = minimize(
            value,
            torch.zeros(T * A).double().numpy(),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-size, size)] * (T * A),
            options={"ftol": 1e-15, "gtol": 1e-12, "maxiter": 1000},
        )
        expected = torch.as_tensor(least.x).view(T, A)
        torch.testing.assert_close(step.moves[index], expected, rtol=1e-6, atol=1e-7)
        inside = step.moves[index].abs() <= size
        assert bool(inside.all())


def test_without_limits_it_is_the_sweep_s_optimum() -> None:
    problem, high = regulator(), limits(1e6)
    amount = torch.full((3,), 1e-2, dtype=torch.float64)
    law = limited_sweep(problem, -high, high, amount)
    expected = limited_rollout(problem, law, -high, high)
    step = condensed_step(problem, -high, high, amount)
    torch.testing.assert_close(step.moves, expected)
    torch.testing.assert_close(step.decrease, law.decrease)


def test_actions_that_cannot_move_stay() -> None:
    problem, high = regulator(), limits(0.3)
    high[:, ::2] = 0.0
    amount = torch.full((3,), 1e-3, dtype=torch.float64)
    found = [
        condensed_step(problem, -high, high, amount, look=look).moves
        for look in (False, True)
    ]
    torch.testing.assert_close(found[0], found[1])
    assert bool((found[0][:, ::2] == 0).all())


@pytest.mark.parametrize("size", [100.0, 0.3])
def test_the_step_is_differentiable_twice(size: float) -> None:
    problem, high = regulator(batch=1), limits(size, batch=1)
    amount = torch.full((1,), 1e-2, dtype=torch.float64)
    inputs = [part.clone().requires_grad_() for part in problem]

    def moves(*parts: Tensor) -> Tensor:
        symmetric = [*parts]
        for place in (2, 4):
            symmetric[place] = 0.5 * (parts[place] + parts[place].mT)
        step = condensed_step(IncrementalLQR(*symmetric), -high, high, amount)
        return step.moves.sin().sum()

    assert torch.autograd.gradcheck(moves, inputs)
    assert torch.autograd.gradgradcheck(moves, inputs)


def test_an_element_that_fails_harms_no_other() -> None:
    problem, high = regulator(), limits(0.3)
    amount = torch.full((3,), 1e-3, dtype=torch.float64)
    expected = condensed_step(problem, -high, high, amount, look=True)
    hessian = problem.hessian.clone()
    hessian[1, :, :A, :A] -= 100 * torch.eye(A, dtype=torch.float64)
    gradient = problem.gradient.clone()
    gradient[2] = torch.nan
    spoilt = problem._replace(hessian=hessian, gradient=gradient)
    found = condensed_step(spoilt, -high, high, amount, look=True)
    assert found.ok.tolist() == [True, False, False]
    torch.testing.assert_close(found.moves[0], expected.moves[0])
    assert bool((found.moves[1:] == 0).all())
    assert bool((found.decrease[1:] == 0).all())


def test_its_factor_is_that_of_the_regulator() -> None:
    """Also with actions that are held: they answer to nothing but their linear cost."""
    problem = regulator(batch=3)
    free = torch.ones(3, T * A, dtype=torch.bool)
    free[1, 2:5] = False
    generator = torch.Generator().manual_seed(4)
    sizes = ((T + 1, S), (T, A), (T, S), (S,))
    given = [torch.randn(3, *s, generator=generator).double() for s in sizes]
    # in the regulator a held action has no effect and a curvature of one
    rows = free.view(3, T, A).double()
    model = problem.unpacked()
    model = model._replace(
        action_cost=rows[..., None] * model.action_cost * rows[..., None, :]
        + torch.diag_embed(1 - rows),
        cross_cost=rows[..., None] * model.cross_cost,
        action_jacobian=model.action_jacobian * rows[..., None, :],
    )
    factor, expected = CondensedFactor(problem, free), lqr_factorize(model)

    def actions(*vectors: Tensor) -> Tensor:
        found, ok = factor.solve(Vectors(*vectors))
        assert bool(ok.all())
        return found

    torch.testing.assert_close(actions(*given), expected.solve(*given).actions)
    leaves = [part.requires_grad_() for part in given]
    assert torch.autograd.gradcheck(actions, leaves)


def test_matrices_that_are_one_for_all_are_eliminated_once() -> None:
    problem = regulator(batch=1)
    matrices = (problem.action_jacobian, problem.state_jacobian, problem.hessian)
    shared = regulator(batch=4)._replace(
        action_jacobian=matrices[0].expand(4, -1, -1, -1),
        state_jacobian=matrices[1].expand(4, -1, -1, -1),
        hessian=matrices[2].expand(4, -1, -1, -1),
        end_hessian=problem.end_hessian.expand(4, -1, -1),
    )
    each = IncrementalLQR(*(part.clone() for part in shared))
    high, damping = limits(0.3, batch=4), torch.full((4,), 1e-3).double()
    found = condensed_step(shared, -high, high, damping, look=True)
    expected = condensed_step(each, -high, high, damping, look=True)
    torch.testing.assert_close(found.moves, expected.moves)
    assert condensed(shared).hessian.stride(0) == 0


def test_a_step_does_not_depend_on_the_batch_it_is_computed_in() -> None:
    # Unstable and tight: some elements cycle, and go on by another method.
    batch, horizon = 24, 12
    problem = regulator(batch, horizon)
    problem = problem._replace(state_jacobian=2.0 * problem.state_jacobian)
    high = torch.full((batch, horizon, A), 0.05).double()
    damping = torch.full((batch,), 1e-3).double()

    def step(rows: slice) -> Tensor:
        part = IncrementalLQR(*(value[rows] for value in problem))
        given = -high[rows], high[rows], damping[rows]
        return condensed_step(part, *given, look=True).moves

    alone = torch.cat([step(slice(i, i + 1)) for i in range(batch)])
    torch.testing.assert_close(step(slice(None)), alone, rtol=1e-9, atol=1e-12)
