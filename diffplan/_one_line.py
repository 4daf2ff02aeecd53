"""What planners, problems and plans look like in one line, and a plan in a notebook."""

import html
import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass

from torch import Tensor

from diffplan._checks import describe, is_traced
from diffplan._kinds import constructors

_BRIEF = 40
_WIDTH, _HEIGHT = 240, 60
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def brief(value: object) -> str:
    """Return the `repr` of a value if it is short, or else the name of its class.

    Of a dataclass with a long one, what is not as by default.
    """
    if isinstance(value, Tensor):
        known = value.numel() == 1 and readable(value)
        return f"{value.item():.4g}" if known else f"Tensor{list(value.shape)}"
    text = repr(value)
    if len(text) <= _BRIEF and "\n" not in text and " at 0x" not in text:
        return text
    if not is_dataclass(value) or isinstance(value, type):
        return describe(value)
    own = {
        each.name: (getattr(value, each.name), each.default) for each in fields(value)
    }
    told = {name: brief(now) for name, (now, default) in own.items() if now != default}
    return listed(type(value).__name__, told)


def listed(name: str, told: Mapping[str, str]) -> str:
    """Return what reads like the call of a class with keyword arguments."""
    return f"{name}({', '.join(f'{key}={value}' for key, value in told.items())})"


def one_line(planner: object) -> str:
    """Return a planner as it was called: horizon, gradient, and what is no default.

    Args:
        planner: Any object that keeps the arguments of its class under their names.
    """
    told = {}
    for name, parameter in _parameters(type(planner)).items():
        value, default = getattr(planner, name, parameter.default), parameter.default
        if value is parameter.empty or parameter.kind is parameter.VAR_KEYWORD:
            continue
        if inspect.getattr_static(type(value), "__repr__") is one_line:  # a wrapped one
            told[name] = repr(value)
        elif name == "gradient" or _is_news(value, default):
            told[name] = brief(value)
    return listed(type(planner).__name__, told)


def readable(value: object) -> bool:
    """Return whether a tensor has numbers to look at: no placeholder of a trace."""
    return isinstance(value, Tensor) and not (value.is_meta or is_traced(value))


def summary(actions: object, states: object, cost: object, ended: str) -> str:
    """Return a plan in one line: shapes, range of the cost, and how it ended.

    Args:
        actions: `[…, T, A]`; so are the others as in `Plan`, or placeholders.
        states: `[…, T+1, S]`.
        cost: `[…]`.
        ended: Such as "3 CONVERGED"; empty where that cannot be looked at.
    """
    if not (isinstance(actions, Tensor) and isinstance(states, Tensor)):
        return "Plan(…)"
    told = [f"actions {list(actions.shape)}", f"states {list(states.shape)}"]
    if isinstance(cost, Tensor) and readable(cost) and cost.numel():
        low, high = (f"{number.item():.4g}" for number in cost.detach().aminmax())
        told.append(f"cost {low}" if low == high else f"cost {low} to {high}")
    told += [ended] if ended else []
    told.append(f"{str(actions.dtype).removeprefix('torch.')} on {actions.device}")
    told += ["with a graph"] if actions.requires_grad else []
    return f"Plan({', '.join(told)})"


def notebook(line: str, explanation: str, actions: Tensor) -> str:
    """Return a plan in HTML: its line, how it ended, and a picture of one problem.

    Args:
        line: Of `summary`.
        explanation: Of `Plan.explain`.
        actions: `[…, T, A]`; those of the first problem are drawn over time.
    """
    told = [f"<code>{html.escape(line)}</code>"]
    told += [html.escape(each) for each in explanation.splitlines()]
    if readable(actions) and actions.numel():
        first = actions.detach().flatten(0, -3)[0] if actions.ndim > 2 else actions
        told.append(_picture(first.detach().double().nan_to_num(0.0, 0.0, 0.0).T))
    return "<br>".join(told)


def _picture(curves: Tensor) -> str:
    """Draw a line for each of the rows `[A, T]`, and the zero."""
    low, high = min(0.0, curves.min().item()), max(0.0, curves.max().item())
    height = _HEIGHT / ((high - low) or 1.0)
    step = _WIDTH / max(1, curves.shape[1] - 1)
    zero = f"{height * high:.1f}"
    lines = [f'<path d="M0 {zero}H{_WIDTH}" stroke="#888" stroke-dasharray="2"/>']
    for number, curve in enumerate(curves.tolist()):
        points = (
            f"{step * time:.1f},{height * (high - value):.1f}"
            for time, value in enumerate(curve)
        )
        colour = _COLOURS[number % len(_COLOURS)]
        lines.append(f'<polyline points="{" ".join(points)}" stroke="{colour}"/>')
    told = f"<title>actions of the first problem, {low:.3g} to {high:.3g}</title>"
    size = f'width="{_WIDTH}" height="{_HEIGHT}" style="overflow:visible"'
    return f'<svg {size} fill="none">{told}{"".join(lines)}</svg>'


def _is_news(value: object, default: object) -> bool:
    if default is None:  # a part that the planner chose by itself is none
        return isinstance(value, bool | int | float | str | Tensor)
    return brief(value) != brief(default)


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Arguments of a class, and of its bases as far as it hands `**options` on."""
    found: dict[str, inspect.Parameter] = {}
    for constructor in constructors(kind):
        own = inspect.signature(constructor).parameters
        found |= {n: p for n, p in own.items() if n not in found}
    found.pop("self", None)
    return dict(sorted(found.items(), key=lambda item: item[0] == "gradient"))
