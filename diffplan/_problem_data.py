"""Data of each problem: tensors of a module that lead with the batch's dimensions.

A planner sees one batch dimension, whatever the leading dimensions of the states are,
and may start several times from each problem. Tensors that hold something of each
problem, such as its goal, have to go along. A module declares them by name, with the
number of dimensions that belong to one problem::

    class GoalDistance(ResidualObjective):
        per_problem = {"goal": 1}  # [S] is everybody's, […, S] has one for each problem

They are looked for in the objective, in the dynamics and in the functions of state
constraints, wherever these are modules (or methods of one) and as deep as they are, and
changed in a copy of the modules that have them; parameters and graphs are shared with
the original. What holds functions that are no submodules changes them itself, by a
method `changed_functions`. The action space has its bounds by the same declaration.
`aligned` lines them up with what a planner asks about.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from diffplan.errors import ShapeError

ObjectiveT = TypeVar("ObjectiveT")


def aligned(
    name: str, value: Tensor, state: Tensor, own: int, covers: int | None = None
) -> Tensor:
    """Return data of each problem, made to line up with states, in their dtype.

    Candidates, particles and steps stand behind the batch's own dimensions; data get
    dimensions of size one there.

    Args:
        name: Of the data, for the message.
        value: `[*own]` for all problems, or `[…, *own]` with one for each.
        state: `[…, S]`, whose first dimensions are those of the batch.
        own: How many dimensions one value has.
        covers: How many dimensions at the end of `state` one value belongs to, where
            their sizes differ: 1 for a context, a weight or a matrix, 2 for one of each
            step. None stands for all of its own, with the sizes of the states.

    Raises:
        ShapeError: the data do not fit the states.

    Example:
        >>> goals, states = torch.zeros(3, 2), torch.zeros(3, 5, 4, 2)  # B, N, T
        >>> aligned("goals", goals, states, own=1).shape
        torch.Size([3, 1, 1, 2])
        >>> contexts, matrices = torch.zeros(3, 7), torch.zeros(3, 2, 2)
        >>> aligned("contexts", contexts, states, own=1, covers=1).shape
        torch.Size([3, 1, 1, 7])
        >>> aligned("matrices", matrices, states, own=2, covers=1).shape
        torch.Size([3, 1, 1, 2, 2])
    """
    value = value.to(state.dtype)
    lead, rest = value.shape[: value.ndim - own], value.shape[value.ndim - own :]
    sizes = state.shape[state.ndim - own :] if covers is None else rest
    between = state.ndim - len(lead) - (own if covers is None else covers)
    if rest != sizes or state.shape[: len(lead)] != lead or (lead and between < 0):
        size = ", ".join(map(str, sizes))
        raise ShapeError(
            f"{name}: expected [{size}], or […, {size}] with the first dimensions of "
            f"the states {list(state.shape)}, got {list(value.shape)}"
        )
    if not lead:
        return value
    return value.reshape(*lead, *(1,) * between, *rest)


def at_steps(
    name: str, value: Tensor | None, time: Tensor | None, like: Tensor, own: int
) -> Tensor | None:
    """Return data of some steps, made to line up with states (or actions).

    Args:
        name: Of the data, for the message.
        value: `[*own]`, `[T, *own]` or, with one for each problem, `[…, T, *own]`; T
            is 1 for what is the same at all steps. None is returned as it is.
        time: The numbers of the steps `[steps]`; None where nothing depends on them.
        like: `[…, steps, S]`, or `[…, S]` without `time`.
        own: How many dimensions belong to one problem and step.
    """
    if value is None or value.ndim == own:
        return None if value is None else value.to(like.dtype)
    if value.shape[-own - 1] == 1:
        return aligned(name, value.squeeze(-own - 1), like, own, covers=1)
    if time is None:
        raise ShapeError(
            f"{name}: expected to be told the `time`, for it has one value for each of "
            f"{value.shape[-own - 1]} steps: {list(value.shape)}"
        )
    chosen = value.index_select(value.ndim - own - 1, time)
    return aligned(name, chosen, like, own + 1, covers=2)


def times_each(vector: Tensor, matrix: Tensor) -> Tensor:
    """Return vectors `[…, n]` times one matrix `[n, m]`, or each times its own.

    Args:
        vector: `[…, n]`.
        matrix: `[n, m]`, or `[…, n, m]` that lines up with the vectors.
    """
    if matrix.ndim == 2:
        return vector @ matrix
    return (vector.unsqueeze(-2) @ matrix).squeeze(-2)


def hold(module: nn.Module, name: str, value: Tensor | None) -> None:
    """Keep data in a module: a parameter if it is one, else a buffer.

    Args:
        module: Gets an attribute.
        name: Of the attribute.
        value: The data, or None for none.
    """
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
    else:
        module.register_buffer(name, value)


def with_one_batch_dimension(objective: ObjectiveT, batch: torch.Size) -> ObjectiveT:
    """Return a function whose data fit states with one batch dimension.

    Args:
        objective: An objective, dynamics, or any function; modules are looked through.
        batch: The leading dimensions of the states that become one.

    Raises:
        ShapeError: there are data of other leading dimensions.
    """

    def flatten(name: str, value: Tensor, own: int) -> Tensor:
        lead, rest = value.shape[: -own or None], value.shape[value.ndim - own :]
        if not lead:
            return value
        if lead != batch:
            size = ", ".join(map(str, rest))
            each = ", ".join(map(str, (*batch, *rest)))
            raise ShapeError(
                f"{name}: expected [{each}], one for each problem of the batch "
                f"{list(batch)}, or [{size}] for all, got {list(value.shape)}"
            )
        return value if len(batch) == 1 else value.reshape(batch.numel(), *rest)

    return _changed(objective, flatten)


def with_repeated_problems(objective: ObjectiveT, count: int) -> ObjectiveT:
    """Return a function whose data fit `count` neighbours for each problem.

    Args:
        objective: Of any kind, with data of one leading dimension; modules are looked
            through.
        count: How often a planner starts from each problem.
    """

    def repeat(name: str, value: Tensor, own: int) -> Tensor:  # noqa: ARG001
        return value if value.ndim <= own else value.repeat_interleave(count, dim=0)

    return objective if count == 1 else _changed(objective, repeat)


def with_stand_ins(objective: ObjectiveT, element: Tensor) -> ObjectiveT:
    """Return a function with the data of those that stand in for failed elements.

    Args:
        objective: Of any kind, with data of one leading dimension; modules are looked
            through.
        element: Whose data each element gets, `[B]`.
    """

    def pick(name: str, value: Tensor, own: int) -> Tensor:  # noqa: ARG001
        return value if value.ndim <= own else value.index_select(0, element)

    return _changed(objective, pick)


def _changed(
    objective: ObjectiveT, change: Callable[[str, Tensor, int], Tensor]
) -> ObjectiveT:
    if hasattr(type(objective), "changed_functions"):
        changed = objective.changed_functions(partial(_changed, change=change))  # type: ignore[attr-defined]
        return cast(ObjectiveT, changed)
    owner = getattr(objective, "__self__", None)
    if isinstance(owner, nn.Module):  # a method, such as `model.step`
        copied = _changed(owner, change)
        name = getattr(objective, "__name__", "")
        return objective if copied is owner else getattr(copied, name)
    if isinstance(objective, nn.Module):
        return cast(ObjectiveT, _copied(cast(nn.Module, objective), change))
    data = _changed_data(objective, change)
    if not data:
        return objective
    changed = copy.copy(objective)
    vars(changed).update(data)
    return changed


def _changed_data(
    owner: object, change: Callable[[str, Tensor, int], Tensor]
) -> dict[str, Tensor]:
    """What an object declares as data of each problem, where that changes."""
    declared: Mapping[str, int] = getattr(type(owner), "per_problem", {})
    data = {}
    for name, own in declared.items():
        value = getattr(owner, name)
        if value is not None:
            changed = change(name, value, own)
            if changed is not value:
                data[name] = changed
    return data


def _copied(
    module: nn.Module, change: Callable[[str, Tensor, int], Tensor]
) -> nn.Module:
    """Return the module, or a copy with other data and children where some change."""
    data = _changed_data(module, change)
    children = {
        name: (child, _changed(child, change))
        for name, child in module.named_children()
    }
    children = {name: pair for name, pair in children.items() if pair[0] is not pair[1]}
    if not data and not children:
        return module
    # Its own tables: what is replaced in the copy must stay in the original.
    copied = object.__new__(type(module))
    tables = {
        name: dict(vars(module)[name])
        for name in ("_parameters", "_buffers", "_modules")
    }
    vars(copied).update({**vars(module), **tables})
    for name, value in data.items():
        copied._parameters.pop(name, None)  # no parameter any more, but made of one
        copied._buffers[name] = value
    for name, (_, child) in children.items():
        copied._modules[name] = child
    return copied
