"""The Riccati form against dense oracles: exact, stable at every weight, isolated."""

import functools

import pytest
import torch
from chain_problems import (
    dense_step,
    random_chain,
    relative_error,
    riccati_step,
    stacked_qr_step,
)
from problems import same_to_rounding
from torch.autograd import gradcheck, gradgradcheck

from diffplan.functional._chain import ChainRightHandSide, ChainSystem
from diffplan.functional.riccati import riccati_factorize

SHAPES = [
    # batch, horizon, state, action, stage residuals, terminal residuals
    (1, 1, 1, 1, 1, 1),
    (8, 2, 2, 1, 1, 1),
    (3, 3, 5, 2, 2, 3),
    (2, 10, 30, 4, 1, 1),
    (2, 100, 5, 2, 0, 1),
    (1, 30, 30, 4, 1, 0),
    (1, 100, 20, 3, 1, 1),
    (2, 10, 94, 4, 1, 1),
    (1, 10, 230, 4, 1, 1),
]


@functools.cache
def _stiff_chain(size: int, horizon: int) -> tuple[ChainSystem, ChainRightHandSide]:
    return random_chain((1,), horizon, size, 4, seed=7)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_dense_solve(shape: tuple[int, ...]) -> None:
    batch, *sizes = shape
    system, rhs = random_chain((batch,), *sizes, seed=1)
    states, actions = dense_step(system, rhs)
    step = riccati_step(system, rhs)
    assert step.ok.all()
    assert relative_error(step, states, actions) < 1e-10


def test_any_leading_dimensions() -> None:
    system, rhs = random_chain((2, 3), 4, 3, 2, seed=2)
    step = riccati_step(system, rhs)
    assert step.states.shape == (2, 3, 4, 3)
    assert step.ok.shape == (2, 3)
    alone = riccati_step(
        ChainSystem(*(tensor[1, 2] for tensor in system)),
        ChainRightHandSide(*(tensor[1, 2] for tensor in rhs)),
    )
    assert alone.ok.shape == ()
    torch.testing.assert_close(alone.states, step.states[1, 2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "horizon", "exponent"),
    [(30, 30, exponent) for exponent in (0, 2, 4, 6, 8, 10, 12)]
    + [(230, 6, exponent) for exponent in (0, 6, 12)],
)
def test_float32_is_accurate_at_every_weight(
    size: int, horizon: int, exponent: int
) -> None:
    system, rhs = _stiff_chain(size, horizon)
    weight = system.transition_weight * 10.0**exponent
    system = system._replace(transition_weight=weight)
    single = ChainSystem(*(tensor.float() for tensor in system))
    single_rhs = ChainRightHandSide(*(tensor.float() for tensor in rhs))
    # the oracle answers the rounded problem: rounding its data is not our error
    states, actions = stacked_qr_step(single.to(torch.float64), single_rhs)
    step = riccati_step(single, single_rhs)
    assert step.ok.all()
    assert relative_error(step, states, actions) < 1e-5


def test_refinement_takes_off_most_of_the_rounding() -> None:
    # The damping sets the condition number: here it is so large that the rounding of
    # the sweep counts on any processor. What a correction leaves is compared with what
    # it was given, since both depend on the order in which a kernel sums.
    system, rhs = random_chain((6,), 6, 60, 4, seed=8)
    system = system._replace(damping=torch.full_like(system.damping, 5e-5))
    single = ChainSystem(*(tensor.float() for tensor in system))
    single_rhs = ChainRightHandSide(*(tensor.float() for tensor in rhs))
    states, actions = stacked_qr_step(single.to(torch.float64), single_rhs)
    plain, refined = (
        relative_error(riccati_step(single, single_rhs, refinements=n), states, actions)
        for n in (0, 1)
    )
    assert refined < plain / 3


@pytest.mark.parametrize("spread", [2, 4])
def test_float32_with_weights_that_differ_between_steps(spread: int) -> None:
    system, rhs = _stiff_chain(30, 30)
    generator = torch.Generator().manual_seed(3)
    exponents = torch.rand(1, 30, generator=generator, dtype=torch.float64)
    weight = 10.0 ** (spread * exponents)
    system = system._replace(transition_weight=weight)
    single = ChainSystem(*(tensor.float() for tensor in system))
    single_rhs = ChainRightHandSide(*(tensor.float() for tensor in rhs))
    states, actions = stacked_qr_step(single.to(torch.float64), single_rhs)
    step = riccati_step(single, single_rhs)
    assert relative_error(step, states, actions) < 1e-5


def test_costates_are_the_weighted_defects_after_the_step() -> None:
    system, rhs = random_chain((2,), 5, 4, 2, seed=4)
    step = riccati_step(system, rhs)
    before = torch.cat((torch.zeros_like(step.states[:, :1]), step.states[:, :-1]), 1)
    left = (
        step.states
        - torch.einsum("btij,btj->bti", system.state_jacobian, before)
        - torch.einsum("btij,btj->bti", system.action_jacobian, step.actions)
        + rhs.defect
    )
    expected = system.transition_weight[..., None] * left
    torch.testing.assert_close(step.costates, expected, rtol=1e-8, atol=1e-10)


def test_factor_solves_other_right_hand_sides() -> None:
    system, rhs = random_chain((2,), 5, 4, 2, seed=5)
    factor = riccati_factorize(system)
    states, actions = 2.0 * rhs.states, -rhs.actions
    other = ChainRightHandSide(torch.zeros_like(rhs.defect), states, actions)
    expected = dense_step(system, other)
    assert relative_error(factor.solve(states, actions), *expected) < 1e-10


@pytest.mark.parametrize("rows", [0, 2])
def test_derivatives_of_first_and_second_order(rows: int) -> None:
    system, rhs = random_chain((2,), 2, 2, 1, rows, rows, seed=6)
    tensors = tuple(
        tensor.clone().requires_grad_(tensor.numel() > 0) for tensor in (*system, *rhs)
    )

    def solve(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        system, rhs = ChainSystem(*tensors[:8]), ChainRightHandSide(*tensors[8:])
        return tuple(riccati_step(system, rhs)[:3])

    assert gradcheck(solve, tensors)
    # three steps of the full check take 10 s; random projections see the same errors
    assert gradgradcheck(solve, tensors, fast_mode=True)


def test_derivative_stays_accurate_in_float32_at_large_weights() -> None:
    gradients = []
    for dtype in (torch.float32, torch.float64):
        system, rhs = _stiff_chain(30, 30)
        system = system._replace(transition_weight=1e8 * system.transition_weight)
        # both differentiate the problem as float32 rounds it
        system = ChainSystem(*(t.float().to(dtype) for t in system))
        rhs = ChainRightHandSide(*(t.float().to(dtype) for t in rhs))
        leaves = [tensor.clone().requires_grad_() for tensor in (*system, *rhs)]
        step = riccati_step(ChainSystem(*leaves[:8]), ChainRightHandSide(*leaves[8:]))
        loss = step.states.square().sum() + step.actions.square().sum()
        gradients.append(torch.autograd.grad(loss, leaves))
    for name, single, double in zip(
        (*ChainSystem._fields, *ChainRightHandSide._fields), *gradients, strict=True
    ):
        error = (single.double() - double).norm() / double.norm()
        assert error < 1e-4, name


def _break(system: ChainSystem, how: str) -> ChainSystem:
    damping, jacobian = system.damping.clone(), system.state_jacobian.clone()
    weight = system.transition_weight.clone()
    if how == "indefinite":
        damping[1] = -1e3
    elif how == "nan":
        jacobian[1, 2, 0, 0] = float("nan")
    elif how == "overflow":
        jacobian[1] = 1e200
    else:
        weight[1, 0] = 0.0
    return system._replace(
        damping=damping, state_jacobian=jacobian, transition_weight=weight
    )


@pytest.mark.parametrize("how", ["indefinite", "nan", "overflow", "zero weight"])
def test_a_broken_element_fails_alone(how: str) -> None:
    system, rhs = random_chain((3,), 4, 6, 2, seed=8)
    broken = _break(system, how)
    good = torch.tensor([0, 2])
    results = []
    for chosen, pick in ((broken, slice(None)), (system, good)):
        leaves = [tensor[pick].clone().requires_grad_() for tensor in (*chosen, *rhs)]
        step = riccati_step(ChainSystem(*leaves[:8]), ChainRightHandSide(*leaves[8:]))
        loss = step.states.square().sum() + step.actions.sum()
        gradients = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves)
        results.append((step, gradients, second))
    (step, gradients, second), (expected, *expected_gradients) = results
    assert riccati_factorize(broken).ok.tolist() == [True, False, True]
    assert step.ok.tolist() == [True, False, True]
    for tensor, wanted in zip(step, expected, strict=True):
        same_to_rounding(tensor[good], wanted)
    for tensor in (*step[:3], *gradients, *second):
        assert torch.equal(tensor[1], torch.zeros_like(tensor[1]))
    for found, wanted in zip((gradients, second), expected_gradients, strict=True):
        for tensor, reference in zip(found, wanted, strict=True):
            same_to_rounding(tensor[good], reference)


def test_vmap_equals_the_batch() -> None:
    system, rhs = random_chain((3,), 4, 3, 2, seed=9)

    def loss(*tensors: torch.Tensor) -> torch.Tensor:
        step = riccati_step(ChainSystem(*tensors[:8]), ChainRightHandSide(*tensors[8:]))
        return step.states.square().sum() + step.actions.sum()

    mapped = torch.func.vmap(torch.func.grad(loss))(*system, *rhs)
    leaf = system.state_jacobian.clone().requires_grad_()
    total = loss(leaf, *system[1:], *rhs)
    (expected,) = torch.autograd.grad(total, leaf)
    torch.testing.assert_close(mapped, expected, rtol=1e-10, atol=1e-12)


def test_no_graph_without_gradients_and_inputs_untouched() -> None:
    system, rhs = random_chain((2,), 4, 3, 2, seed=10)
    copies = [tensor.clone() for tensor in (*system, *rhs)]
    step = riccati_step(system, rhs)
    assert not step.states.requires_grad
    assert all(map(torch.equal, copies, (*system, *rhs)))
