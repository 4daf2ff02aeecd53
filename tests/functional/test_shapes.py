"""Tensors that do not fit together are refused by name, in every public function.

The sizes of arguments are written down here once more; what is wrong follows from them.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import diffplan as dp
from diffplan import functional, objectives, planners
from diffplan.errors import DiffplanError, ShapeError, TensorTypeError

SIZES = {"b": 2, "t": 3, "u": 4, "s": 5, "a": 6, "n": 11, "r": 7, "k": 2, "1": 1}
"""Of the letters below: u is one more than t, n is s + a, k one less than t."""

LQR = {
    "state_cost": "b u s s",
    "action_cost": "b t a a",
    "cross_cost": "b t a s",
    "state_linear": "b u s",
    "action_linear": "b t a",
    "state_jacobian": "b t s s",
    "action_jacobian": "b t s a",
    "offset": "b t s",
    "initial_state": "b s",
}
CHAIN = {
    "state_jacobian": "b t s s",
    "action_jacobian": "b t s a",
    "transition_weight": "b t",
    "stage_state_jacobian": "b t r s",
    "stage_action_jacobian": "b t r a",
    "terminal_jacobian": "b 1 s",
    "action_curvature": "b t a",
    "damping": "b",
}
STEP = {"defect": "b t s", "states": "b t s", "actions": "b t a"}
MODEL = {
    "action_jacobian": "b t s a",
    "state_jacobian": "b t s s",
    "hessian": "b t n n",
    "gradient": "b t n",
    "end_hessian": "b s s",
    "end_gradient": "b s",
}
LAW = {"feedforward": "b t a", "gains": "b t a s", "decrease": "b", "ok": "b bool"}
BLOCKS = {"diagonal": "b t s s", "lower": "b k s s"}


def random(letters: str) -> Tensor:
    """Square matrices are far from singular."""
    sizes = [SIZES[letter] for letter in letters.split() if letter in SIZES]
    dtype = {"bool": torch.bool, "long": torch.int64}.get(letters[-4:])
    value = torch.rand(sizes) if dtype is None else torch.ones(sizes, dtype=dtype)
    square = len(sizes) > 1 and sizes[-1] == sizes[-2]
    return value + 20 * torch.eye(sizes[-1]) if square else value


def many(table: dict[str, str]) -> dict[str, Tensor]:
    return {name: random(letters) for name, letters in table.items()}


def clipped(point: Tensor) -> Tensor:
    return point.clamp(-1, 1)


def moved(state: Tensor, action: Tensor, time: Tensor | None = None) -> Tensor:
    return state + action.sum(-1, keepdim=True)


f = functional
system = f.ChainSystem(**many(CHAIN))
model = f.IncrementalLQR(**many(MODEL))
law = f.LimitedLaw(**many(LAW))
limits = {"low": random("b t a") - 2, "high": random("b t a")}
problem = dp.PlanningProblem(
    moved, objectives.ActionPenalty(1.0), dp.Box([-1.0], [1.0])
)
vectors = ("state_linear", "action_linear", "offset", "initial_state")

# For each function its tensors; a name with two of one letter is a square matrix.
CASES: dict[str, tuple[Callable[..., Any], dict[str, str]]] = {
    "box_qp": (
        f.box_qp,
        {
            "hessian": "b a a",
            **dict.fromkeys(("linear", "low", "high", "start"), "b a"),
        },
    ),
    "project_ball": (
        lambda **given: f.project_ball(norm=2, **given),
        {"point": "b a", "radius": "", "center": "a", "low": "a", "high": "a"},
    ),
    "project_simplex": (
        f.project_simplex,
        {"point": "b a", "total": "", "low": "a", "high": "a"},
    ),
    "project_ball_within": (
        lambda **given: f.project_ball_within(project=clipped, **given),
        {"point": "b a", "radius": "", "center": "a"},
    ),
    "rollout": (
        lambda **given: f.rollout(moved, **given),
        {"state": "b s", "actions": "b t a", "times": "t long"},
    ),
    "linearize_dynamics": (
        lambda **given: f.linearize_dynamics(moved, **given),
        {"state": "b s", "action": "b a"},
    ),
    "batched_jacobian": (
        lambda **inputs: f.batched_jacobian(moved, *inputs.values()),
        {"inputs": "b s", "inputs.": "b a"},
    ),
    "generalized_advantages": (
        f.generalized_advantages,
        {"rewards": "b t", "values": "b u", "terminated": "b t bool"},
    ),
    "lambda_returns": (
        lambda **given: f.lambda_returns(lambda_=0.5, **given),
        dict.fromkeys(("rewards", "next_values", "discounts"), "b t"),
    ),
    "lqr": (lambda **given: f.lqr(f.LQRProblem(**given)), LQR),
    "LQRFactor.solve": (
        f.lqr_factorize(f.LQRProblem(**many(LQR))).solve,
        {name: LQR[name] for name in vectors},
    ),
    "riccati_factorize": (lambda **g: f.riccati_factorize(f.ChainSystem(**g)), CHAIN),
    "normal_equations_factorize": (
        lambda **given: f.normal_equations_factorize(f.ChainSystem(**given)),
        CHAIN,
    ),
    "ChainFactor.solve": (f.riccati_factorize(system).solve, STEP),
    "BlockTridiagonal": (f.BlockTridiagonal, BLOCKS),
    "BlockTridiagonal.matvec": (
        f.BlockTridiagonal(**many(BLOCKS)).matvec,
        {"vector": "b t s"},
    ),
    "BlockTridiagonalFactor.solve": (
        f.BlockTridiagonal(**many(BLOCKS)).cholesky().solve,
        {"b": "b t s"},
    ),
    "limited_sweep": (
        lambda **given: f.limited_sweep(model, **given),
        {"low": "b t a", "high": "b t a", "damping": "b", "wanted": "b bool"},
    ),
    "limited_sweep of": (
        lambda **g: f.limited_sweep(
            f.IncrementalLQR(**g), damping=torch.ones(2), **limits
        ),
        MODEL,
    ),
    "limited_rollout": (
        lambda **given: f.limited_rollout(model, law, **given),
        {"low": "b t a", "high": "b t a"},
    ),
    "candidate_costs": (
        lambda **given: planners.candidate_costs(problem, **given),
        {"state": "b 1", "candidates": "b r t 1"},
    ),
    "follow": (
        lambda **given: planners.follow(lambda state, noise: noise, problem, **given),
        {"state": "b 1", "noise": "b r t 1"},
    ),
    "limited_rollout by": (
        lambda **given: f.limited_rollout(model, f.LimitedLaw(**given), **limits),
        LAW,
    ),
}


FREE = {
    **dict.fromkeys(("candidate_costs", "follow"), "rt"),
    **dict.fromkeys(("rollout", "linearize_dynamics", "batched_jacobian"), "sa"),
    **dict.fromkeys(("project_ball", "project_simplex", "project_ball_within"), "b"),
}
"""Letters of any size, since no other tensor has them; a 1 here is one always."""


def wrong(letters: str, free: str) -> Iterator[tuple[str, Tensor]]:
    """Return what does not fit: other sizes, too few, and what is no real number."""
    value = random(letters)
    for place, letter in enumerate(letters.split()):
        if letter in SIZES and letter not in free:
            last = value.narrow(place, 0, 1)
            yield f"one more {letter}", torch.cat([value, last], place)
    if value.ndim:
        yield "a number", value.flatten()[0]
    yield "complex", value.to(torch.complex64)
    yield "elsewhere", value.to("meta")


def calls() -> Iterator[Any]:
    for name, (function, table) in CASES.items():
        for key, letters in table.items():
            for what, value in wrong(letters, FREE.get(name, "") + "1"):
                given = {**many(table), key: value}
                yield pytest.param(function, given, key, id=f"{name}({key}: {what})")


@pytest.mark.parametrize("name", CASES)
def test_what_fits_is_taken(name: str) -> None:
    function, table = CASES[name]
    function(**many(table))


@pytest.mark.parametrize(("function", "given", "key"), list(calls()))
def test_what_does_not_fit_is_refused_by_name(
    function: Callable[..., Any], given: dict[str, Tensor], key: str
) -> None:
    """A message may be about another argument, if it says which one that one fits."""
    with pytest.raises(DiffplanError, match=key):
        function(**given)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize(
    "name", ["box_qp", "lqr", "riccati_factorize", "limited_sweep of"]
)
def test_factorisations_take_one_dtype(name: str, dtype: torch.dtype) -> None:
    function, table = CASES[name]
    for key, value in many(table).items():
        with pytest.raises(TensorTypeError, match=key):
            function(**{**many(table), key: value.to(dtype)})


def test_nothing_is_refused_where_something_is_needed() -> None:
    """The smallest of no numbers is an error of torch."""
    none = torch.zeros(2, 0)
    with pytest.raises(ShapeError, match="A must be at least 1"):
        f.project_simplex(none, torch.ones(()), none, none)
    with pytest.raises(ShapeError, match="A must be at least 1"):
        f.box_qp(torch.zeros(0, 0), none, none, none)


def test_dynamics_and_projections_keep_the_shape() -> None:
    point = torch.zeros(2, 3)
    with pytest.raises(ShapeError, match="dynamics: expected next states"):
        f.rollout(lambda state, action: state[:, :1], point, point.unsqueeze(1))
    with pytest.raises(ShapeError, match="function: expected an output"):
        f.batched_jacobian(lambda given: given.sum(), point)
    with pytest.raises(ShapeError, match="projections: expected"):
        f.project_intersection(point, [lambda given: given[:, :1]])


def test_heads_of_no_ensemble_are_refused() -> None:
    for heads in (torch.ones(()), torch.ones(2, 0)):
        with pytest.raises(ShapeError, match="heads"):
            objectives.deviation(heads)
