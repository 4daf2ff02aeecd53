"""Checks of what surrounds a plan: modes of torch, and the state of a process."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from diffplan.errors import DiffplanError
from diffplan.plan import Plan
from diffplan.planners.base import Planner
from diffplan.problem import PlanningProblem
from diffplan.testing._assertions import answered, same
from diffplan.testing._batches import same_plan_in_a_batch


def check_global_state(
    planner: Planner, problem: PlanningProblem, state: Tensor
) -> None:
    """Random numbers and settings that a whole process shares stay as they are."""
    generator = torch.Generator(state.device).manual_seed(7)
    with global_state_kept("planning"):
        planner(problem, state.clone(), generator=generator)


def check_contexts(planner: Planner, problem: PlanningProblem, state: Tensor) -> None:
    """Inference mode and `torch.func.vmap` give the same plans, or refuse to."""
    keys = torch.arange(len(state), device=state.device)
    expected = planner(problem, state, keys=keys).detach()
    with answered("planning in torch.inference_mode()", DiffplanError):
        with torch.inference_mode():
            plan = planner(problem, state, keys=keys)
        same_plan_in_a_batch("torch.inference_mode()", plan, expected)

    def alone(one: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        plan = planner(problem, one, keys=key)
        return plan.actions, plan.states, plan.cost

    # What cannot be mapped is refused by torch itself, by a RuntimeError.
    with (
        answered("planning under torch.func.vmap", DiffplanError, RuntimeError),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "There is a performance drop")
        plan = Plan(*torch.func.vmap(alone)(state, keys))
        same_plan_in_a_batch("torch.func.vmap", plan, expected)


@contextmanager
def global_state_kept(what: str) -> Iterator[None]:
    """Fail if random state or settings of the whole process change meanwhile."""
    before = _global_state()
    yield
    for name, value in _global_state().items():
        same(f"{name}, which {what} must leave alone", value, before[name])


def _global_state() -> dict[str, object]:
    """Return what all code of a process shares.

    Not the state of Python's `random`: type checks at run time draw from it.
    """
    numpy = sys.modules.get("numpy")  # torch imports it, where it is installed
    drawn = numpy.random.get_state() if numpy else ("", b"")
    return {
        "the hash of torch's global random state": hash(
            tuple(torch.get_rng_state().tolist())
        ),
        "the hash of NumPy's global random state": hash((bytes(drawn[1]), *drawn[2:])),
        "the default dtype": torch.get_default_dtype(),
        "the default device": torch.get_default_device(),
        "whether gradients are on": torch.is_grad_enabled(),
        "whether autocast is on": torch.is_autocast_enabled("cpu"),
        "the number of threads": torch.get_num_threads(),
    }
