"""No planner waits for its device: what it computes never decides what it does next.

A planner that reads a number, asks whether something holds, or moves numbers to or from
the device while it plans would stall a GPU in every iteration and could not be captured
as a CUDA graph. Two stand-ins find that without a GPU: a mode that refuses operations
that synchronise, and the device `meta`, which has shapes but no numbers to look at.
"""

from typing import Any

import pytest
import torch
from planner_cases import PlannerCase, each_planner_that
from problems import double_integrator, states_of
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import diffplan as dp
from diffplan.planners.request import PlanRequest
from diffplan.planners.second_order.loop import SecondOrderShooting

aten = torch.ops.aten

SYNCHRONIZING = {
    aten._local_scalar_dense.default,  # .item(), float(…), bool(…), if …
    aten.is_nonzero.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
    aten._linalg_check_errors.default,  # of torch.linalg.cholesky, solve, inv …
}
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}


class NoSynchronization(TorchDispatchMode):
    """Refuses what would make the host wait for the device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        if func in SYNCHRONIZING:
            raise AssertionError(f"{func} synchronises with the host")
        if func in INDEXING and any(
            value.dtype in (torch.bool, torch.uint8) for value in tree_leaves(args[1:2])
        ):
            raise AssertionError(f"{func} with a mask synchronises with the host")
        result = func(*args, **kwargs)
        if func is aten._to_copy.default or func is aten.copy_.default:
            devices = {value.device.type for value in (*tensors, result)}
            assert len(devices) == 1, f"{func} copies between {sorted(devices)}"
        return result


class NoNumbersFromTheHost(TorchFunctionMode):
    """Refuses tensors made of Python's numbers, which are copied to the device."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            data = args[-1] if func is Tensor.new_tensor else args[0]
            device = str((kwargs or {}).get("device", "cpu"))
            assert isinstance(data, Tensor) or device == "cpu", f"{func} copies {data}"
        return func(*args, **(kwargs or {}))


each_native = each_planner_that(lambda case: case.name != "LatCo-theseus")


def gradient_of(case: PlannerCase) -> dp.GradientStrategy:
    return dp.Unroll() if dp.Unroll in case.gradients else dp.Detach()


@each_native
def test_solve_never_reads_a_number(
    case: PlannerCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the planners that look at numbers where that is free must not think it is
    monkeypatch.setattr(SecondOrderShooting, "may_look", lambda *_: False)
    problem, state = double_integrator(limit=1.0), states_of(2).requires_grad_()
    planner = case.build(horizon=4, iterations=3, gradient=gradient_of(case))
    noise = planner.draw_noise(problem, state)
    warm_start = planner(problem, state).detach()
    with NoSynchronization():
        for start in (None, warm_start):
            plan = planner.plan_for(PlanRequest(problem, state, noise, start))
        if plan.actions.requires_grad:
            torch.autograd.grad(plan.actions.sum() + plan.cost.sum(), state)


@each_native
def test_solve_stays_on_its_device(case: PlannerCase) -> None:
    host, state = double_integrator(limit=1.0), states_of(2)
    planner = case.build(horizon=4, iterations=3, gradient=gradient_of(case))
    noise = planner.draw_noise(host, state)
    state = state.to("meta").requires_grad_()
    box = host.action_space.to(state)
    problem = dp.PlanningProblem.__new__(dp.PlanningProblem)
    problem.__dict__.update(host.__dict__, action_space=box)
    for module in (problem.dynamics, problem.objective, planner):
        module.to("meta")
    noise = None if noise is None else noise.to("meta")
    with NoSynchronization(), NoNumbersFromTheHost():
        plan = planner.plan_for(PlanRequest(problem, state, noise))
        if plan.actions.requires_grad:
            torch.autograd.grad(plan.actions.sum() + plan.cost.sum(), state)
    assert plan.actions.shape == (2, 4, 1)
    for name, value in {**plan.diagnostics, **plan.memory}.items():
        assert value.device.type == "meta", name


def test_the_stand_ins_catch_what_they_should() -> None:
    values = torch.ones(3)
    with NoSynchronization():
        for read in (
            lambda: values.sum().item(),
            lambda: bool(values.all()),
            lambda: values[values > 0],
            lambda: values.nonzero(),
            lambda: torch.linalg.cholesky(torch.eye(2)),
            lambda: values.to("meta"),
        ):
            with pytest.raises(AssertionError, match=r"synchronises|copies"):
                read()
        torch.where(values > 0, values, 0.0).sum()
