"""Settings of stage (a), regression: those of the paper are the defaults."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from diffplan._checks import require_at_least
from diffplan._runs.settings import Settings
from diffplan.errors import ArgumentError
from diffplan.planners import DCEM, GradMPC
from reproductions.dcem.ensemble import OptimizerSettings
from reproductions.dcem.training import require_schedule

METHODS = ("gd", "dcem")
DOMAIN = (0.0, 2 * math.pi)
"""Of x in the target y = x sin x."""


DESCENT = Settings(
    partial(GradMPC, 1, num_starts=1, keep_best=False), iterations=10, step_size=0.1
)
"""Unrolled gradient descent on the energy, from y = 0."""

SEARCH = Settings(
    partial(DCEM, 1),
    iterations=10,
    num_samples=100,
    num_elites=10,
    temperature=1.0,
    initial_std=7.0,  # y is unbounded
)
"""DCEM on the energy, from y = 0; the costs are standardised."""


@dataclass(frozen=True)
class RegressionTraining:
    """Training of one ensemble.

    Attributes:
        updates: Of the energy; each sees one x.
        points: Evenly spaced x with their y, the training set.
        hidden: Width of the three hidden layers of the energy.
        evaluate_every: Updates between measurements of the error on all points.
        checkpoint_every: Updates between checkpoints, a multiple of the above.
        compile: Compile an update with `torch.compile`: two (dcem) to eight (gd) times
            faster, equal up to rounding; needs a C++ compiler.
        optimizer: Adam, clipping and the falling learning rate.
        descent: Planner of method `gd`.
        search: Planner of method `dcem`.
    """

    updates: int = 100_000
    points: int = 100
    hidden: int = 128
    evaluate_every: int = 100
    checkpoint_every: int = 1000
    compile: bool = True
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    descent: Settings = DESCENT
    search: Settings = SEARCH

    def __post_init__(self) -> None:
        for name in ("points", "hidden"):
            require_at_least(name, getattr(self, name), 1)
        require_schedule(self.updates, self.evaluate_every, self.checkpoint_every)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Layer sizes of the energy E(x, y)."""
        return (2, self.hidden, self.hidden, self.hidden, 1)

    def planner(self, method: str, iterations: int | None = None) -> GradMPC | DCEM:
        """Return what minimises the energy."""
        settings = self.descent if method == "gd" else self.search
        count = settings.iterations if iterations is None else iterations
        planner: GradMPC | DCEM = settings.build(iterations=count)
        return planner


@dataclass(frozen=True)
class RegressionEvaluation:
    """What is measured on the trained energies.

    Attributes:
        iterations: Numbers of test-time iterations.
        grid: Points per axis of the energy surface.
        span: The surface covers y from -span to span.
    """

    iterations: tuple[int, ...] = (*range(17), 19, 20, 30, 40)
    grid: int = 200
    span: float = 7.0


@dataclass(frozen=True)
class RegressionConfig:
    """Settings of stage (a).

    Attributes:
        methods: Planners that are trained, gd and dcem.
        training: Of each ensemble.
        evaluation: Of the trained energies.
    """

    methods: tuple[str, ...] = METHODS
    training: RegressionTraining = field(default_factory=RegressionTraining)
    evaluation: RegressionEvaluation = field(default_factory=RegressionEvaluation)

    def __post_init__(self) -> None:
        _check_methods(self.methods)

    @classmethod
    def smoke(cls) -> "RegressionConfig":
        """Return settings of seconds; the numbers mean nothing."""
        config = cls()
        training = replace(
            config.training,
            updates=40,
            hidden=16,
            points=10,
            evaluate_every=20,
            checkpoint_every=20,
            compile=False,
        )
        evaluation = RegressionEvaluation(iterations=(0, 5, 10, 20), grid=20)
        return replace(config, training=training, evaluation=evaluation)


def _check_methods(methods: Sequence[str]) -> None:
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise ArgumentError(f"methods: expected some of {METHODS}, got {methods}")
