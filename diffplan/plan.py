"""The answer of every planner: a record of tensors, its status and its memory."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from diffplan._checks import require_count, require_tensor
from diffplan._one_line import notebook, readable, summary
from diffplan.errors import BatchIndexError, ShapeError, TensorTypeError


class Status(IntEnum):
    """How planning ended, per batch element."""

    CONVERGED = 0
    COMPLETED = 1
    ITERATION_LIMIT = 2
    FACTORIZATION_FAILED = 3
    NON_FINITE = 4
    NOT_STATIONARY = 5
    CONSTRAINT_VIOLATED = 6
    DIVERGED = 7


_EXPLANATIONS = {
    Status.CONVERGED: "met the planner's tolerance",
    Status.COMPLETED: "ran all iterations (convergence was not tested)",
    Status.ITERATION_LIMIT: (
        "used all `iterations` before meeting the tolerance: raise `iterations`, "
        "loosen the tolerance, or look at `plan.diagnostics`"
    ),
    Status.FACTORIZATION_FAILED: (
        "a linear system could not be factorised even with more damping: raise "
        "`damping`, or look for huge Jacobians in the dynamics"
    ),
    Status.NON_FINITE: (
        "became NaN or infinite (actions that did were replaced by the allowed ones "
        "nearest to zero): check the model and its derivative, lower `step_size` or "
        "raise `damping`"
    ),
    Status.NOT_STATIONARY: (
        "has no derivative by `Implicit()`: it is not a strict minimum within the "
        "tolerance: raise `iterations` or `polish`, or use `Unroll()`"
    ),
    Status.CONSTRAINT_VIOLATED: (
        "breaks a constraint by more than its tolerance: raise `outer_iterations` or "
        "`penalty`, or look whether the constraints have a point in common"
    ),
    Status.DIVERGED: (
        "ended above where the descent began (the best that was seen on the way is "
        "returned): lower `step_size`, raise `damping`, or start nearer"
    ),
}


@dataclass(frozen=True)
class Plan:
    """A plan, batched: every tensor leads with the batch dimensions `[…]`.

    Attributes:
        actions: `[…, T, A]`, inside the action space exactly.
        states: `[…, T+1, S]`, the given state first. For shooting planners the
            rollout of `actions`; for collocation the planned states, which meet the
            dynamics up to the reported violation.
        cost: `[…]`, the objective of `states` and `actions`.
        status: `[…]`, integers of `Status`.
        iterations: `[…]`, integers, the iterations that were used.
        diagnostics: Traces `[…, iterations]` (cost, violation …) and other tensors
            that explain the result; never needed to go on.
        memory: What a warm start needs beside the actions (spread, multipliers …),
            each `[…, T, k]`, or `[…, 1, k]` for what does not belong to a time step
            (of several, such as elites, `[…, K, T, k]`); and `plan_index` `[…, 1, 1]`,
            how many plans this one is the last of, so that the next one draws fresh
            noise.

    Example:
        >>> plan = Plan(torch.zeros(3, 5, 2), torch.zeros(3, 6, 4), torch.zeros(3))
        >>> plan.action.shape
        torch.Size([3, 2])
    """

    actions: Tensor
    states: Tensor
    cost: Tensor
    status: Tensor = None  # type: ignore[assignment]
    iterations: Tensor = None  # type: ignore[assignment]
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Frozen fields are set by object.__setattr__. Nothing given is looked at:
        # torch.func rebuilds records around placeholders that are no tensors.
        if self.status is None:
            completed = torch.full_like(self.cost, int(Status.COMPLETED))
            object.__setattr__(self, "status", completed.long())
        if self.iterations is None:
            object.__setattr__(self, "iterations", torch.zeros_like(self.status))

    @property
    def horizon(self) -> int:
        """Number of planned actions, T."""
        return self.actions.shape[-2]

    @property
    def batch_shape(self) -> torch.Size:
        """Return the leading dimensions, one entry per problem."""
        return self.cost.shape

    @property
    def action(self) -> Tensor:
        """Return the first action `[…, A]`, the one to execute now."""
        return self.actions[..., 0, :]

    @property
    def succeeded(self) -> Tensor:
        """Return where planning ended well, booleans `[…]`.

        CONVERGED, or COMPLETED by a planner that tests for no convergence.
        """
        return self.status <= int(Status.COMPLETED)

    @property
    def discarded(self) -> Tensor | None:
        """Return how many candidates left the contest, integers `[…]`.

        They had a cost or a gradient that was not finite. None where the planner does
        not descend from candidates.
        """
        return self.diagnostics.get("discarded")

    def explain(self) -> str:
        """Say in words how each group of batch elements ended, and what to do."""
        total = self.status.numel()
        lines = [
            f"{count} of {total} plans {_EXPLANATIONS[code]}."
            for code, count in self._ended().items()
        ]
        if self.discarded is not None and bool(self.discarded.any()):
            lines.append(
                f"{int(self.discarded.sum())} candidates left the contest, for a cost "
                "or a gradient that was not finite: see `plan.discarded`."
            )
        return "\n".join(lines)

    def _ended(self) -> dict[Status, int]:
        """Return how many batch elements ended how."""
        status = self.status.reshape(-1).tolist()
        return {code: status.count(code) for code in Status if code in status}

    def __repr__(self) -> str:
        known = self._ended().items() if readable(self.status) else ()
        ended = ", ".join(f"{count} {code.name}" for code, count in known)
        return summary(self.actions, self.states, self.cost, ended)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return notebook(repr(self), self.explain(), self.actions)

    def shifted(
        self, steps: int = 1, *, detach: bool = True, fill: Tensor | None = None
    ) -> "Plan":
        """Return this plan moved `steps` ahead in time, to warm-start the next one.

        The tail is filled by repeating the last entry, or with actions of yours. Cost
        and diagnostics belong to the old plan and are kept as they are.

        Args:
            steps: How many actions were executed, at least 0.
            detach: Whether to leave the graph behind, as a loop that goes on for ever
                must: a graph would keep that of every plan before. False lets a loss
                of the next plan be differentiated through this one.
            fill: The last actions, of any shape that expands to `[…, steps, A]`, such
                as `box.center`, or `[A]` of a policy for one problem; None repeats the
                plan's last one. States and memory repeat theirs.

        Raises:
            ArgumentError: `steps` is no whole number of at least 0.
            TensorTypeError: `fill` is no tensor of real numbers.
            ShapeError: it does not expand to that shape.
        """
        steps = require_count("steps", steps, 0)
        if fill is not None:
            fill = self._tail(steps, fill)
        plan = self.detach() if detach else self
        if steps == 0:
            return plan
        return replace(
            plan,
            actions=_shift(plan.actions, steps, fill),
            states=_shift(plan.states, steps),
            memory={
                name: value if value.shape[-2] == 1 else _shift(value, steps)
                for name, value in plan.memory.items()
            },
        )

    def _tail(self, steps: int, fill: Tensor) -> Tensor:
        """Return the actions that fill the end `[…, min(steps, T), A]`."""
        shape = (*self.batch_shape, steps, self.actions.shape[-1])
        try:
            tail = require_tensor("fill", fill).to(self.actions).expand(shape)
            return tail[..., -self.horizon :, :]
        except RuntimeError as error:
            raise ShapeError(
                f"fill: expected a shape that expands to {list(shape)}, got "
                f"{list(fill.shape)}"
            ) from error

    def where(self, mask: Tensor, other: "Plan") -> "Plan":
        """Return this plan where `mask` `[…]` holds and `other` elsewhere.

        Used to reset single environments of a batch. Diagnostics that do not fit each
        other, such as traces of another number of iterations, are left out.

        Raises:
            TensorTypeError: the mask holds no booleans, or `other` is no plan.
            ShapeError: the mask or the other plan has another batch shape, or the plans
                differ in horizon, state or action size.
        """
        if not isinstance(other, Plan):
            raise TensorTypeError(f"other: expected a Plan, got {type(other).__name__}")
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            given = getattr(mask, "dtype", type(mask).__name__)
            raise TensorTypeError(f"mask: expected a tensor of booleans, got {given}")
        if mask.shape != self.batch_shape or other.batch_shape != self.batch_shape:
            raise ShapeError(
                f"mask: expected the plans' batch shape {list(self.batch_shape)}, "
                f"got mask {list(mask.shape)}, other {list(other.batch_shape)}"
            )

        for name in ("actions", "states"):
            mine, theirs = getattr(self, name), getattr(other, name)
            _require_same(name, mine, theirs)
        for name in self.memory.keys() & other.memory.keys():
            _require_same(f"memory[{name!r}]", self.memory[name], other.memory[name])
        fitting = {
            name: value
            for name, value in self.diagnostics.items()
            if name in other.diagnostics
            and value.shape == other.diagnostics[name].shape
        }

        def select(mine: Tensor, theirs: Tensor) -> Tensor:
            extra = mine.ndim - mask.ndim
            return torch.where(mask.reshape(mask.shape + (1,) * extra), mine, theirs)

        return _combine(replace(self, diagnostics=fitting), other, select)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Plan":
        """Return a plan with `function` applied to every tensor."""
        return _combine(self, self, lambda mine, _: function(mine))

    def detach(self) -> "Plan":
        """Return the same numbers without a graph."""
        return self.map(Tensor.detach)

    def to(self, like: Tensor | torch.device | torch.dtype | str) -> "Plan":
        """Return this plan on another device, in another dtype, or as `like` in both.

        Integers, such as the status or what is counted in the memory, stay integers;
        actions and states do not.

        Args:
            like: A tensor, a device (also as a string) or a dtype of real numbers.

        Raises:
            TensorTypeError: it is none of these.
        """
        place: Tensor | torch.device | str
        if isinstance(like, torch.dtype):
            if not like.is_floating_point:
                raise TensorTypeError(f"like: expected real numbers, got {like}")
            place = self.cost.device
        elif isinstance(like, Tensor | torch.device | str):
            place = like.device if isinstance(like, Tensor) else like
        else:
            kinds = "a tensor, a device or a dtype"
            raise TensorTypeError(f"like: expected {kinds}, got {type(like).__name__}")

        def convert(value: Tensor) -> Tensor:
            return value.to(like if value.is_floating_point() else place)

        moved = self.map(convert)
        return replace(
            moved, actions=moved.actions.to(like), states=moved.states.to(like)
        )

    def cpu(self) -> "Plan":
        """Return this plan on the CPU."""
        return self.to("cpu")

    def numpy(self) -> dict[str, Any]:
        """Return all tensors as NumPy arrays without a graph, such as for `np.savez`.

        By the names of the attributes; entries of `diagnostics` and `memory` are called
        "diagnostics.cost" and so on.
        """
        arrays: dict[str, Any] = {}
        for name, value in vars(self.detach().cpu()).items():
            entries = value if isinstance(value, dict) else {}
            arrays |= {f"{name}.{key}": each.numpy() for key, each in entries.items()}
            arrays |= {} if isinstance(value, dict) else {name: value.numpy()}
        return arrays

    def can_be_continued(self) -> Tensor:
        """Return where a warm start from this plan has a sense, `[…]` bool.

        Where it did not fail, and nothing is NaN that a plan may start from; states are
        where it was not evaluated.
        """
        sound, lead = self.status != int(Status.NON_FINITE), self.status.ndim
        for value in (self.actions, self.states, *self.memory.values()):
            sound = sound & torch.isfinite(value).flatten(lead).all(dim=-1)
        return sound

    def __getitem__(self, index: object) -> "Plan":
        """Index the batch dimensions of every tensor, and no other dimension.

        Raises:
            BatchIndexError: the batch has no such element, or not as many dimensions.
        """
        whole = _batch_index(index, self.batch_shape)
        try:
            return self.map(lambda value: value[whole])  # type: ignore[index]
        except (IndexError, TypeError) as error:
            raise BatchIndexError(
                f"plan[…]: the batch of shape {list(self.batch_shape)} has no "
                f"{index!r}: {error}"
            ) from error


def _require_same(name: str, mine: Tensor, theirs: Tensor) -> None:
    if mine.shape != theirs.shape:
        raise ShapeError(
            f"other.{name}: expected {list(mine.shape)}, as this plan has, got "
            f"{list(theirs.shape)}"
        )


def _batch_index(index: object, batch: torch.Size) -> tuple[object, ...]:
    """Return the index of the batch dimensions, without an ellipsis."""
    parts = index if isinstance(index, tuple) else (index,)
    parts = tuple(
        torch.as_tensor(part)
        if isinstance(part, bool | list) or hasattr(part, "__array__")
        else part
        for part in parts
    )
    used = 0
    for part in parts:
        mask = isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8)
        if part is not None and part is not Ellipsis:
            used += part.ndim if mask else 1
    dots = sum(part is Ellipsis for part in parts)
    if used > len(batch) or dots > 1:
        raise BatchIndexError(
            f"plan[…]: expected to index the batch {list(batch)}, got {index!r}"
        )
    rest = (slice(None),) * (len(batch) - used)
    if dots == 0:
        return (*parts, *rest)
    at = [part is Ellipsis for part in parts].index(True)
    return (*parts[:at], *rest, *parts[at + 1 :])


def _shift(value: Tensor, steps: int, fill: Tensor | None = None) -> Tensor:
    if fill is not None:
        return torch.cat([value[..., steps:, :], fill], dim=-2)
    steps = min(steps, value.shape[-2] - 1)
    tail = value[..., -1:, :].expand(*value.shape[:-2], steps, value.shape[-1])
    return torch.cat([value[..., steps:, :], tail], dim=-2)


def _combine(
    plan: Plan, other: Plan, function: Callable[[Tensor, Tensor], Tensor]
) -> Plan:
    values: dict[str, object] = {}
    for field_name in _FIELDS:
        mine, theirs = getattr(plan, field_name), getattr(other, field_name)
        if isinstance(mine, dict):
            values[field_name] = {
                name: function(value, theirs[name])
                for name, value in mine.items()
                if name in theirs
            }
        else:
            values[field_name] = function(mine, theirs)
    return Plan(**values)  # type: ignore[arg-type]


# Listed here, for torch.compile does not look into `fields`.
_FIELDS = tuple(item.name for item in fields(Plan))

torch.export.register_dataclass(Plan, serialized_type_name="diffplan.Plan")
torch.serialization.add_safe_globals([Plan])
