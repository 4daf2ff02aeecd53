"""Checks that a plan is that of its problem alone, and of what a loop keeps."""

import copy
import gc
import weakref

import torch
from torch import Tensor

from diffplan.errors import ShapeError, TensorTypeError
from diffplan.plan import Plan
from diffplan.planners.base import Planner
from diffplan.problem import PlanningProblem
from diffplan.testing._assertions import close, constants_expected, fail, refusal, same

ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-4}
"""How far plans of one problem in two batches may differ, relatively.

Matrix products round otherwise in batches of another size, and planning may enlarge
that some thousand times.
"""


def check_batches(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """A problem with a key has one plan: in any batch, order, place and chunk."""
    count = state.shape[0]
    keys = torch.arange(7, 7 + 3 * count, 3, device=state.device)
    whole = planner(problem, state, keys=keys)
    backwards = torch.arange(count - 1, -1, -1, device=state.device)
    twice = torch.stack([backwards, backwards.flip(0)])  # [2, B]
    batches = (backwards[:1], backwards[1:2], twice)
    for index in batches:
        part = planner(problem, state[index], keys=keys[index])
        same_plan_in_a_batch(f"problems {index.tolist()} alone", part, whole[index])
        if not problem.is_random:  # else noise of the planner is not all
            _check_noise(planner, problem, state, keys, index)
    chunked = copy.deepcopy(planner)
    for module in chunked.modules():
        if hasattr(module, "chunk_size"):
            module.chunk_size = 3  # type: ignore[assignment]
    same_plan_in_a_batch("chunks of 3", chunked(problem, state, keys=keys), whole)


def check_seeds(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """The index in the batch is the key if none is given; others are refused."""
    count = state.shape[0]
    keys = torch.arange(count, device=state.device)
    named = planner(problem, state, keys=keys)
    same_plan_in_a_batch("the index as the key", named, planner(problem, state))
    with refusal(TensorTypeError, "keys", "keys that are no whole numbers"):
        planner(problem, state, keys=keys.double())
    with refusal(ShapeError, "keys", "keys of another batch"):
        planner(problem, state, keys=keys[1:])
    # TypeError, for type checks at run time may come before ours.
    with refusal(TypeError, "generator", "a number as the generator"):
        planner(problem, state, generator=0)  # type: ignore[arg-type]
    with refusal(TypeError, "warm_start", "a tensor as the warm start"):
        planner(problem, state, warm_start=state)  # type: ignore[arg-type]


def check_loop(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """A warm-started loop counts its plans, and keeps the graph of none before."""
    plan: Plan | None = None
    first: weakref.ref[Tensor] | None = None
    for number in range(1, 4):
        leaf = state.detach().clone().requires_grad_()
        start = None if plan is None else plan.shifted()
        with constants_expected():
            plan = planner(problem, leaf, warm_start=start)
        same("plan.memory['plan_index']", _numbers(plan), [number] * len(state))
        if plan.actions.requires_grad:  # backward frees its graph, and no other one
            torch.autograd.grad(plan.actions.sum(), leaf, allow_unused=True)
        first = first or weakref.ref(leaf)
        del leaf, start
    gc.collect()
    if first is not None and first() is not None:
        fail("plan.shifted() keeps the graph of earlier plans: memory grows for ever")


def _check_noise(
    planner: Planner,
    problem: PlanningProblem,
    state: Tensor,
    keys: Tensor,
    index: Tensor,
) -> None:
    noise = planner.draw_noise(problem, state, keys=keys)
    if noise is None or len(noise) != len(state):  # none, or all problems share it
        return
    part = planner.draw_noise(problem, state[index], keys=keys[index])
    if part is None or not torch.equal(part, noise[index]):
        fail(
            "noise_from_keys gives a problem other numbers in another batch: draw from "
            "the keys, by diffplan.functional._random"
        )


def same_plan_in_a_batch(how: str, got: Plan, expected: Plan) -> None:
    """Fail unless two plans of the same problems, in two batches, are the same."""
    for name in ("actions", "states", "cost"):
        value = getattr(expected, name)
        tolerance = ROUNDING.get(value.dtype, 1e-2)
        close(f"plan.{name} with {how}", getattr(got, name), value, tolerance)


def _numbers(plan: Plan) -> list[int]:
    return plan.memory["plan_index"].flatten().tolist()
