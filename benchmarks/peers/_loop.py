"""What the workers of `control_loop.py` share: the task, and how they are asked.

    {"prepare": key, "task": …, "settings": …} → {"first_seconds": …}
    {"model": key, "state": …, "action": …}    → {"state": …}   the worker's own model
    {"reset": key}                             → {}             forgets the last plan
    {"act": key, "state": …} → {"action": …, "seconds": …, "processor_seconds": …}
    {"versions": []}         → {package: version}

One worker keeps all the controllers that it was asked to prepare. A worker runs in the
environment of one library: nothing here may import diffplan, nor torch.

The task is: minimise ½ Σ_{t<T} (w·(x_t - goal)² + effort ‖u_t‖²)
+ ½ terminal w·(x_T - goal)², subject to x_{t+1} = f(x_t, u_t) and |u| ≤ limit.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from _lines import answer_lines

Numbers = list[float]


@dataclass(frozen=True)
class Task:
    """What is controlled, and for what.

    Attributes:
        plant: "pendulum", "cartpole" or "point_mass".
        constants: Of its equations, by the names that diffplan's models have.
        horizon: T.
        goal: `[S]`.
        weight: w `[S]`.
        effort: Weight of the actions.
        terminal: How often the last state counts.
        limit: Largest absolute action.
        width: A.
        starts: States from which the loop begins, each `[S]`.
    """

    plant: str
    constants: dict[str, float]
    horizon: int
    goal: Numbers
    weight: Numbers
    effort: float
    terminal: float
    limit: float
    width: int
    starts: list[Numbers]

    @property
    def size(self) -> int:
        """S."""
        return len(self.goal)

    def following(self, maths: Any, state: Any, action: Any) -> list[Any]:
        """Return the S numbers of the next state, in any library's numbers.

        Args:
            maths: What has `sin`, `cos` and `arctan2` for these numbers.
            state: S of them.
            action: A of them.
        """
        return _EQUATIONS[self.plant](maths, state, action, **self.constants)


def _pendulum(
    maths: Any, state: Any, action: Any, time_step: float, gravity: float
) -> list[Any]:
    angle, velocity = state
    velocity = velocity + time_step * (1.5 * gravity * maths.sin(angle) + 3 * action[0])
    return [angle + time_step * velocity, velocity]


def _cartpole(
    maths: Any,
    state: Any,
    action: Any,
    time_step: float,
    gravity: float,
    cart_mass: float,
    pole_mass: float,
    half_length: float,
) -> list[Any]:
    place, speed, cos, sin, spin = state
    total, lever = cart_mass + pole_mass, pole_mass * half_length
    push = (action[0] + lever * spin * spin * sin) / total
    inertia = half_length * (4 / 3 - pole_mass * cos * cos / total)
    turn = (gravity * sin - cos * push) / inertia
    angle = maths.arctan2(sin, cos) + time_step * spin
    return [
        place + time_step * speed,
        speed + time_step * (push - lever * turn * cos / total),
        maths.cos(angle),
        maths.sin(angle),
        spin + time_step * turn,
    ]


def _point_mass(maths: Any, state: Any, action: Any, time_step: float) -> list[Any]:
    del maths  # linear
    count = len(action)
    places, speeds = state[:count], state[count:]
    return [
        *(
            place + time_step * speed
            for place, speed in zip(places, speeds, strict=True)
        ),
        *(
            speed + time_step * force
            for speed, force in zip(speeds, action, strict=True)
        ),
    ]


_EQUATIONS: dict[str, Callable[..., list[Any]]] = {
    "pendulum": _pendulum,
    "cartpole": _cartpole,
    "point_mass": _point_mass,
}


@dataclass
class Controller:
    """One way to control a plant.

    Attributes:
        act: What is timed: the action `[A]` for a state `[S]`, planned from the plan
            before, shifted by a step.
        reset: Forgets the plan before.
        model: The next state that the controller expects.
    """

    act: Callable[[Numbers], Numbers]
    reset: Callable[[], None]
    model: Callable[[Numbers, Numbers], Numbers]


Build = Callable[[Task, dict[str, Any]], Controller]


class Session:
    """The prepared controllers of one worker.

    Args:
        packages: Whose versions are reported.
        build: Sets a controller up for a task, with the settings of a contender.
    """

    def __init__(self, packages: list[str], build: Build) -> None:
        self.packages, self.build = packages, build
        self.controllers: dict[str, Controller] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request."""
        if "versions" in request:
            return {name: version(name) for name in self.packages}
        if "prepare" in request:
            task = Task(**request["task"])
            return self.prepare(request["prepare"], task, request["settings"])
        if "model" in request:
            model = self.controllers[request["model"]].model
            return {"state": model(request["state"], request["action"])}
        if "reset" in request:
            self.controllers[request["reset"]].reset()
            return {}
        return timed(self.controllers[request["act"]], request["state"])

    def prepare(
        self, key: str, task: Task, settings: dict[str, Any]
    ) -> dict[str, float]:
        """Set a controller up, and let it act once: all that happens but once.

        Twice more, and from the plan before, for what compiles compiles that as well.
        """
        started = time.perf_counter()
        controller = self.build(task, settings)
        for _ in range(3):
            controller.act(task.starts[0])
        self.controllers[key] = controller
        return {"first_seconds": time.perf_counter() - started}


def timed(controller: Controller, state: Numbers) -> dict[str, Any]:
    """Return the action and what it took, by the clock and of the processor."""
    processor, started = time.process_time(), time.perf_counter()
    action = controller.act(state)
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - processor,
        "action": action,
    }


def serve(packages: list[str], build: Build) -> None:
    """Answer requests until standard input ends; see `Session`."""
    answer_lines(Session(packages, build).answer)
