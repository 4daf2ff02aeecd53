"""What the workers of `peers.py` share, beside how they talk (`_lines.py`).

{"prepare": case}   → {"cost": …, …}     builds, warms up and judges the answer
{"measure": count}  → {"seconds": […]}   runs the prepared case so many times
{"versions": []}    → {"torch": …, …}
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from _lines import answer_lines
from _problems import Problem, build
from torch import Tensor

WARM_UPS = 5
"""Runs before any is timed; the cost is their mean, since samplers are random."""

SLOW = 10.0
"""A first run of so many seconds warms up enough by itself, with one more."""


@dataclass
class Contender:
    """One way to solve a problem.

    Attributes:
        solve: What is timed; returns the actions `[B, T, A]`, or whatever `actions`
            reads them from.
        actions: Turns what `solve` returned into actions, outside of the timing.
    """

    solve: Callable[[], Any]
    actions: Callable[[Any], Tensor] = lambda found: found


Prepare = Callable[[Problem, dict[str, Any]], Contender]


def serve(packages: list[str], prepare: Prepare) -> None:
    """Answer requests until standard input ends.

    Args:
        packages: Whose versions are reported.
        prepare: Builds the contender for a problem and a case.
    """
    torch.set_num_threads(1)
    answer_lines(Session(packages, prepare).answer)


class Session:
    """The prepared case of one worker."""

    def __init__(self, packages: list[str], prepare: Prepare) -> None:
        self.packages, self.prepare = packages, prepare
        self.run: Callable[[], Any] | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request."""
        if "versions" in request:
            return {name: version(name) for name in ("torch", *self.packages)}
        if "prepare" in request:
            return self.start(request["prepare"])
        return {"seconds": [self.timed() for _ in range(request["measure"])]}

    def start(self, case: dict[str, Any]) -> dict[str, Any]:
        """Build a case, run it for warming up, and say how good the answer is."""
        torch.compiler.reset()  # what was compiled for other sizes counts as a limit
        problem = build(case)
        if case["backward"]:
            problem.state.requires_grad_()
        else:
            problem.dynamics.requires_grad_(False)
        leaves = [problem.state]
        if case["wrt"] == "everything":
            leaves += problem.dynamics.parameters()
        contender = self.prepare(problem, case)

        def forward_and_backward() -> Any:
            found = contender.solve()
            loss = contender.actions(found).square().sum()
            return found, torch.autograd.grad(loss, leaves)

        @torch.no_grad()
        def forward() -> Any:
            return contender.solve(), ()

        self.run = forward_and_backward if case["backward"] else forward
        first = self.timed()  # compiles, where a case asks for that
        costs: list[Tensor] = []
        for _ in range(WARM_UPS if first < SLOW else 1):
            found, gradients = self.run()
            with torch.no_grad():
                costs.append(problem.cost(contender.actions(found).detach()).mean())
        return {
            "cost": torch.stack(costs).mean().item(),
            "slope": problem.slope(contender.actions(found)),
            "first_seconds": first,
            "gradient_norms": [gradient.norm().item() for gradient in gradients],
        }

    def timed(self) -> float:
        """Return the seconds of one run of the prepared case, of the processor.

        So that it does not count what else the machine does.
        """
        assert self.run is not None, "prepare comes before measure"
        started = time.process_time()
        self.run()
        return time.process_time() - started
