"""Every layer has the same derivative in every mode, and it is that of its values.

Reverse mode, forward mode, `torch.func` and mixtures of them are compared with central
differences, to second order. A new layer joins by one entry in `LAYERS`.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_mode
from chain_problems import normal_equations_step, random_chain, riccati_step
from lqr_problems import increments, packed, random_lqr
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vmap

from diffplan.errors import UnsupportedGradientError
from diffplan.functional import (
    BlockTridiagonal,
    IncrementalLQR,
    LQRProblem,
    batched_jacobian,
    box_qp,
    colour_noise,
    generalized_advantages,
    limited_rollout,
    limited_sweep,
    lml,
    lqr,
    lqr_factorize,
    project_ball,
    project_ball_within,
    project_intersection,
    project_simplex,
    rollout,
)
from diffplan.functional._chain import ChainRightHandSide, ChainSystem
from diffplan.functional._first_order import RULES, clip_norm, start_moments
from diffplan.functional._gaussian import weighted_mean, weighted_std

Layer = Callable[..., Any]


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def positive(size: int, *lead: int, seed: int = 0) -> Tensor:
    root = draw(*lead, size, size, seed=seed)
    return root @ root.mT + torch.eye(size, dtype=torch.float64)


def symmetric(diagonal: Tensor, lower: Tensor) -> BlockTridiagonal:
    return BlockTridiagonal(0.5 * (diagonal + diagonal.mT), lower)


def solve_block_tridiagonal(diagonal: Tensor, lower: Tensor, b: Tensor) -> Tensor:
    return symmetric(diagonal, lower).cholesky().solve(b)


def chain_step(step: Layer, **settings: Any) -> Layer:
    def of_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
        system, rhs = ChainSystem(*tensors[:8]), ChainRightHandSide(*tensors[8:])
        return step(system, rhs, **settings)[:3]

    return of_tensors


def lqr_by_factor(*tensors: Tensor) -> tuple[Tensor, ...]:
    problem = LQRProblem(*tensors)
    vectors = (*problem[3:5], *problem[7:])
    return lqr_factorize(problem).solve(*vectors)[:3]


def limited(look: bool) -> Layer:
    def moves(*tensors: Tensor) -> Tensor:
        problem, (low, high, damping) = IncrementalLQR(*tensors[:6]), tensors[6:]
        hessian, end = problem.hessian, problem.end_hessian
        problem = problem._replace(
            hessian=0.5 * (hessian + hessian.mT), end_hessian=0.5 * (end + end.mT)
        )
        law = limited_sweep(problem, low, high, damping, look=look)
        return limited_rollout(problem, law, low, high)

    return moves


def limited_arguments(width: int) -> tuple[Tensor, ...]:
    """Some actions would leave their box."""
    problem = increments((), 4, 3, width, seed=5)
    high = torch.full_like(problem.action_linear, 0.3)
    return *packed(problem), -high, high, torch.tensor(0.1, dtype=torch.float64)


def ball(norm: float) -> Layer:
    return lambda point, radius, center, low, high: project_ball(
        point, radius, center, norm, low, high
    )


def ball_in_simplex(point: Tensor, radius: Tensor, center: Tensor) -> Tensor:
    low = torch.zeros_like(center)
    return project_ball_within(
        point,
        radius,
        center,
        lambda x: project_simplex(x, torch.ones((), dtype=x.dtype), low, low + 1),
    )


def three_halves(point: Tensor, low: Tensor, high: Tensor) -> Tensor:
    def plane(x: Tensor) -> Tensor:
        return x - (x.sum(-1, keepdim=True) - high.sum()).relu() / x.shape[-1]

    return project_intersection(
        point, [lambda x: torch.maximum(x, low), plane, lambda x: x.clamp_max(1)], 20
    )


def pendulum(state: Tensor, action: Tensor) -> Tensor:
    angle, speed = state.split(1, -1)
    speed = speed + 0.1 * (angle.sin() + action)
    return torch.cat((angle + 0.1 * speed, speed), -1)


def two_steps(name: str) -> Layer:
    def descend(gradient: Tensor) -> Tensor:
        moments, rule = start_moments(gradient), RULES[name]
        first, moments = rule.direction(gradient, moments)
        return first + rule.direction(clip_norm(gradient.sin(), 0.5), moments)[0]

    return descend


SCALAR = torch.tensor(0.8, dtype=torch.float64)
ACTION = draw(5, seed=11)
CHAIN, CHAIN_RIGHT = random_chain((), 3, 2, 2, rows=2, end_rows=1, seed=3)
CHAIN_ARGUMENTS = (*CHAIN._replace(damping=0.1 * SCALAR), *CHAIN_RIGHT)

LAYERS: Mapping[str, tuple[Layer, tuple[Tensor, ...]]] = {
    "lqr": (lambda *p: lqr(LQRProblem(*p))[:3], random_lqr((), 3, 2, 2, seed=1)),
    "lqr-one-action": (
        lambda *p: lqr(LQRProblem(*p))[:3],
        random_lqr((), 3, 2, 1, seed=1),
    ),
    "lqr_factorize": (lqr_by_factor, random_lqr((), 2, 3, 2, seed=2)),
    "block-tridiagonal-solve": (
        solve_block_tridiagonal,
        (positive(2, 3), 0.2 * draw(2, 2, 2), draw(3, 2)),
    ),
    "riccati": (chain_step(riccati_step, refinements=0), CHAIN_ARGUMENTS),
    "riccati-refined": (chain_step(riccati_step, refinements=1), CHAIN_ARGUMENTS),
    "normal-equations": (chain_step(normal_equations_step), CHAIN_ARGUMENTS),
    "box_qp": (
        lambda *program: box_qp(*program).solution,
        (positive(3), 3 * draw(3, seed=4), -0.5 + 0.1 * draw(3), 0.5 + 0.1 * draw(3)),
    ),
    "box_lqr-1": (limited(False), limited_arguments(1)),
    "box_lqr-2": (limited(False), limited_arguments(2)),
    "box_lqr-3": (limited(False), limited_arguments(3)),
    "lml": (lambda x: lml(x, 2), (draw(5),)),
    "lml-temperature": (lambda x, t: lml(x, 2, t), (draw(5), SCALAR)),
    "ball-2": (ball(2), (ACTION, SCALAR, 0.1 * draw(5), -1 - 0 * ACTION, ACTION / 2)),
    "ball-1": (ball(1), (ACTION, SCALAR, 0.1 * draw(5), -1 - 0 * ACTION, ACTION / 2)),
    "ball-inf": (
        ball(float("inf")),
        (3 * ACTION, SCALAR, 0.1 * draw(5), -0.6 - 0 * ACTION, 0.7 + 0 * ACTION),
    ),
    "simplex": (
        project_simplex,
        (ACTION, SCALAR, 0.01 + 0 * ACTION, 0.3 + 0 * ACTION),
    ),
    "ball-in-simplex": (ball_in_simplex, (ACTION[:3], SCALAR, 0.1 * draw(3))),
    "intersection": (three_halves, (ACTION[:3], -0.3 + 0 * ACTION[:3], ACTION[:3] / 4)),
    "rollout": (
        lambda x, u: rollout(pendulum, x, u),
        (draw(2, seed=6), draw(4, 1, seed=7)),
    ),
    "rollout-in-segments": (
        lambda x, u: rollout(pendulum, x, u, segment=2),
        (draw(2, seed=6), draw(4, 1, seed=7)),
    ),
    "batched_jacobian": (
        lambda x, u: batched_jacobian(pendulum, x, u)[1],
        (draw(2, seed=6), draw(1, seed=7)),
    ),
    "colour_noise": (lambda white: colour_noise(white, 1.5), (draw(5, 2),)),
    "gaussian": (
        lambda x, w: (
            weighted_mean(x, w),
            weighted_std(x, w, weighted_mean(x, w), 1e-3),
        ),
        (draw(4, 2, 1), draw(4, seed=2).softmax(-1)),
    ),
    "adam": (two_steps("adam"), (draw(3),)),
    "rmsprop": (two_steps("rmsprop"), (draw(3),)),
    "generalized_advantages": (generalized_advantages, (draw(3), draw(4, seed=2))),
}

WAYS = 2
"""Directions, in all arguments at once, along which layers are differentiated."""


def along(name: str) -> Callable[[Tensor], Tensor]:
    """The layer as a function of how far to go along each direction, `[2] → [m]`."""
    layer, arguments = LAYERS[name]
    ways = [0.1 * draw(WAYS, *a.shape, seed=20 + i) for i, a in enumerate(arguments)]

    def flat(lengths: Tensor) -> Tensor:
        moved = [
            a + torch.tensordot(lengths, way, 1)
            for a, way in zip(arguments, ways, strict=True)
        ]
        return torch.cat([part.flatten() for part in parts_of(layer(*moved))])

    return flat


def differences(function: Callable[[Tensor], Tensor], step: float = 1e-5) -> Tensor:
    """The Jacobian at zero by central differences, `[…, 2]`."""
    with torch.no_grad():
        return torch.stack(
            [
                (function(step * way) - function(-step * way)) / (2 * step)
                for way in torch.eye(WAYS, dtype=torch.float64)
            ],
            -1,
        )


def by_duals(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    columns = []
    for way in torch.eye(WAYS, dtype=torch.float64):
        with forward_mode.dual_level():
            answer = forward_mode.unpack_dual(function(forward_mode.make_dual(at, way)))
            columns.append(torch.zeros_like(answer.primal))
            if answer.tangent is not None:
                columns[-1] = answer.tangent
    return torch.stack(columns, -1)


def by_jvp(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    ways = torch.eye(WAYS, dtype=torch.float64)
    return torch.stack([jvp(function, (at,), (way,))[1] for way in ways], -1)


def over_vmap(jacobian: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Differentiate a mapped function: nothing inside shows that it is."""

    def of(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
        return jacobian(lambda x: vmap(function)(x.expand(2, WAYS))[1], at)

    return of


def inside_vmap(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    return vmap(jacrev(function))(at.expand(2, WAYS))[0]


FIRST = {
    "reverse": lambda f, at: torch.autograd.functional.jacobian(f, at),
    "reverse-over-vmap": over_vmap(
        lambda f, at: torch.autograd.functional.jacobian(f, at)
    ),
    "duals": by_duals,
    "duals-over-vmap": over_vmap(by_duals),
    "jvp": by_jvp,
    "jvp-over-vmap": over_vmap(by_jvp),
    "jacfwd": lambda f, at: jacfwd(f)(at),
    "jacrev": lambda f, at: jacrev(f)(at),
    "jacrev-over-vmap": over_vmap(lambda f, at: jacrev(f)(at)),
    "vmap": inside_vmap,
}

SECOND = {
    "reverse": lambda f, at: torch.autograd.functional.hessian(f, at),
    "forward-over-reverse": lambda f, at: jacfwd(grad(f))(at),
    "reverse-over-forward": lambda f, at: jacrev(jacfwd(f))(at),
    "duals-over-reverse": lambda f, at: by_duals(gradient_of(f), at),
}


def gradient_of(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def gradient(at: Tensor) -> Tensor:
        leaf = at if at.requires_grad else at.clone().requires_grad_()
        return torch.autograd.grad(function(leaf), leaf, create_graph=True)[0]

    return gradient


@pytest.mark.parametrize("name", LAYERS)
def test_first_derivatives_agree_in_every_mode(name: str) -> None:
    function, at = along(name), torch.zeros(WAYS, dtype=torch.float64)
    expected = differences(function)
    assert expected.norm() > 0
    for mode, jacobian in FIRST.items():
        got = jacobian(function, at)
        torch.testing.assert_close(
            got, expected, rtol=1e-6, atol=1e-7, msg=lambda text, m=mode: f"{m}: {text}"
        )


@pytest.mark.parametrize("name", LAYERS)
def test_any_argument_alone_may_be_mapped(name: str) -> None:
    layer, arguments = LAYERS[name]
    for index, argument in enumerate(arguments):
        pair = torch.stack([argument, 0.9 * argument])
        mapped = vmap(
            layer, tuple(0 if i == index else None for i, _ in enumerate(arguments))
        )
        given = [pair if i == index else a for i, a in enumerate(arguments)]
        single = [0.9 * a if i == index else a for i, a in enumerate(arguments)]
        got, expected = parts_of(mapped(*given)), parts_of(layer(*single))
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one[1], other)


def parts_of(answer: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (answer,) if isinstance(answer, Tensor) else answer


@pytest.mark.parametrize("name", LAYERS)
def test_second_derivatives_agree_in_every_mode(name: str) -> None:
    function, at = along(name), torch.zeros(WAYS, dtype=torch.float64)
    weights = torch.linspace(0.5, 1.5, len(function(at)), dtype=torch.float64)

    def total(lengths: Tensor) -> Tensor:
        return (weights * function(lengths)).square().sum()

    expected = differences(lambda x: torch.autograd.functional.jacobian(total, x))
    for mode, hessian in SECOND.items():
        got = hessian(total, at)
        torch.testing.assert_close(
            got, expected, rtol=1e-5, atol=1e-6, msg=lambda text, m=mode: f"{m}: {text}"
        )
    # torch drops tangents of forward mode in itself: right without a node, else refused
    with suppress(UnsupportedGradientError):
        got = jacfwd(jacfwd(total))(at)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
