"""Stage (a): an energy E(x, y) whose minimiser over y is the prediction (section 5.1).

The minimiser is found by unrolled gradient descent or by DCEM, and the energy is
trained through the search so that the prediction is right. All seeds of a method are
one ensemble.

To the planners this is a problem of one step: the state is x, the action is y, the
objective is the energy.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from diffplan._files import write_atomically
from diffplan._runs.tables import write_csv
from diffplan.planners import DCEM, GradMPC
from diffplan.problem import Box, PlanningProblem
from diffplan.training.seeding import make_generator
from reproductions.common.stages import Unit
from reproductions.dcem.ensemble import layers, network, parameter_count
from reproductions.dcem.regression_config import (
    DOMAIN,
    RegressionConfig,
    RegressionEvaluation,
    RegressionTraining,
)
from reproductions.dcem.training import EnsembleTraining

POINTS_AT_ONCE = 25
"""When all points are predicted: as many as fit into a processor's cache."""

UNBOUNDED = Box([-torch.inf], [torch.inf])


def units(
    config: RegressionConfig, seeds: Sequence[int], directory: Path
) -> list[Unit]:
    """Return the work of stage (a): per method a training and its evaluation."""
    made = []
    for method in reversed(config.methods):  # the longer one first
        model, tests = directory / method, directory / f"{method}_tests"
        common: dict[str, Any] = {"method": method, "seeds": tuple(seeds)}
        training = config.training
        made.append(
            Unit(
                f"regression/{method}",
                partial(train, **common, settings=training, directory=model),
                model,
            )
        )
        made.append(
            Unit(
                f"regression/{method}_tests",
                partial(
                    test,
                    **common,
                    settings=training,
                    evaluation=config.evaluation,
                    model=model,
                    directory=tests,
                ),
                tests,
                (f"regression/{method}",),
            )
        )
    return made


def predict_all(
    planner: GradMPC | DCEM,
    problem: PlanningProblem,
    points: Tensor,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Return all members' minimisers `[M, R]` for points `[R]`, some at a time."""
    found = []
    for part in points.split(POINTS_AT_ONCE):
        x = part.expand(len(generators), -1)
        noise = draw_noise(planner, x, generators)
        found.append(predict(planner, problem, x, noise))
    return torch.cat(found, dim=1)


def target(x: Tensor) -> Tensor:
    """Return y = x sin x."""
    return x * x.sin()


def energy_problem(parameters: Tensor, sizes: Sequence[int]) -> PlanningProblem:
    """Return the search for y as a problem with one step, for M members at once.

    Args:
        parameters: `[M, P]`, the members' energies.
        sizes: Of their layers.

    Returns:
        A problem for states x `[B, 1]`, where B is a multiple of M (see `network`).
    """
    energies = layers(parameters, sizes)

    def energy(states: Tensor, actions: Tensor) -> Tensor:
        pairs = torch.cat([states[..., 0, :], actions[..., 0, :]], dim=-1)
        return network(energies, pairs, softplus)[..., 0]

    return PlanningProblem(_stay, energy, UNBOUNDED)


def _stay(state: Tensor, action: Tensor) -> Tensor:  # noqa: ARG001
    return state


def draw_noise(
    planner: GradMPC | DCEM, x: Tensor, generators: Sequence[torch.Generator]
) -> Tensor:
    """Return the planner's noise for x `[M, R]`; each member's is its own.

    Args:
        planner: Only DCEM needs random numbers; descent begins at the box centre, 0.
        x: Gives numbers and dtype.
        generators: One per member.
    """
    if not isinstance(planner, DCEM):
        return x.new_zeros(x.numel(), 1, 1, 1)
    shape = (x.shape[1], planner.iterations, planner.num_samples, 1, 1)
    draws = [torch.randn(shape, generator=g, dtype=x.dtype) for g in generators]
    return torch.cat(draws)


def predict(
    planner: GradMPC | DCEM, problem: PlanningProblem, x: Tensor, noise: Tensor
) -> Tensor:
    """Return the minimisers `[M, R]` for x `[M, R]` and the noise of `draw_noise`."""
    plan = planner(problem, x.reshape(-1, 1), noise=noise, evaluate=False)
    return plan.actions.reshape(x.shape)


class RegressionEnsemble(EnsembleTraining):
    """The energies of several seeds in training.

    Args:
        method: gd or dcem.
        seeds: One member each.
        settings: Of the training.
        dtype: Of the numbers.
    """

    def __init__(
        self,
        method: str,
        seeds: Sequence[int],
        settings: RegressionTraining,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        generators = [make_generator(seed, "regression", method) for seed in seeds]
        rows = [_default_weights(settings.sizes, g) for g in generators]
        parameters = torch.stack(rows).to(dtype)
        every = settings.evaluate_every
        super().__init__(seeds, parameters, generators, settings.optimizer, every)
        self.settings, self.planner = settings, settings.planner(method)
        self.points = grid_of_x(settings.points).to(dtype)
        self._loss = self._loss_function()

    def gradient(self) -> Tensor:
        """Return the gradients of the squared errors, each at one x of its own."""
        count = len(self.points)
        picked = [torch.randint(count, (1,), generator=g) for g in self.generators]
        x = self.points[torch.stack(picked)]
        noise = draw_noise(self.planner, x, self.generators)
        loss = self._loss(self.parameters, x, noise)
        (gradient,) = torch.autograd.grad(loss, self.parameters)
        return gradient

    def errors(self) -> list[float]:
        """Return the mean squared errors on all points."""
        problem = energy_problem(self.parameters, self.settings.sizes)
        y = predict_all(self.planner, problem, self.points, self.generators)
        return mean_squared_errors(y, self.points)

    def _loss_function(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        planner, sizes = self.planner, self.settings.sizes

        def loss(parameters: Tensor, x: Tensor, noise: Tensor) -> Tensor:
            y = predict(planner, energy_problem(parameters, sizes), x, noise)
            # A sum over members: each term depends on one row of parameters.
            return (y - target(x)).square().sum()

        return torch.compile(loss, fullgraph=True) if self.settings.compile else loss


def grid_of_x(points: int) -> Tensor:
    """Return the training set's x `[points]`, evenly spaced, both ends included."""
    return torch.linspace(*DOMAIN, points)


def mean_squared_errors(y: Tensor, x: Tensor) -> list[float]:
    """Return each member's mean squared error of predictions y `[M, R]` for x."""
    errors: list[float] = (y - target(x)).square().mean(dim=1).tolist()
    return errors


def train(
    method: str, seeds: Sequence[int], settings: RegressionTraining, directory: Path
) -> None:
    """Train one ensemble; see `EnsembleTraining.run`."""
    RegressionEnsemble(method, seeds, settings).run(
        directory, settings.updates, settings.checkpoint_every, settings
    )


def test(
    method: str,
    seeds: Sequence[int],
    settings: RegressionTraining,
    evaluation: RegressionEvaluation,
    model: Path,
    directory: Path,
) -> None:
    """Measure other numbers of iterations, predictions and the energy surface.

    Writes `iterations.csv` (mean squared errors) and `surface.npz`: energies
    `[M, grid of x, grid of y]` and predictions `[iterations, M, points]`.
    """
    ensemble = RegressionEnsemble(method, seeds, settings)
    ensemble.load(model)
    parameters = ensemble.parameters.detach()
    points = grid_of_x(settings.points)
    problem = energy_problem(parameters, settings.sizes)
    rows: list[dict[str, object]] = []
    predictions = []
    for count in evaluation.iterations:
        generators = [make_generator(seed, "iterations", count) for seed in seeds]
        with torch.no_grad():
            planner = settings.planner(method, count)
            y = predict_all(planner, problem, points, generators)
        predictions.append(y.numpy())
        errors = mean_squared_errors(y, points)
        rows += [
            {"iterations": count, "seed": seed, "error": error}
            for seed, error in zip(seeds, errors, strict=True)
        ]
    write_csv(directory / "iterations.csv", rows)
    content: dict[str, Any] = {
        "seeds": np.array(seeds),
        "span": np.array(evaluation.span),
        "points": points.numpy(),
        "iterations": np.array(evaluation.iterations),
        "predictions": np.stack(predictions),
        "energies": energies(parameters, settings.sizes, evaluation).numpy(),
    }
    write_atomically(
        directory / "surface.npz", lambda file: np.savez_compressed(file, **content)
    )


@torch.no_grad()
def energies(
    parameters: Tensor, sizes: Sequence[int], evaluation: RegressionEvaluation
) -> Tensor:
    """Return E(x, y) on a grid, `[M, grid, grid]`, x along the second dimension."""
    x = torch.linspace(*DOMAIN, evaluation.grid)
    y = torch.linspace(-evaluation.span, evaluation.span, evaluation.grid)
    pairs = torch.cartesian_prod(x, y).expand(parameters.shape[0], -1, -1)
    found = network(layers(parameters, sizes), pairs, softplus)
    return found.reshape(-1, evaluation.grid, evaluation.grid)


def _default_weights(sizes: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw one network as `torch.nn.Linear` does: ±1/√inputs, uniform, biases too."""
    row = torch.empty(parameter_count(sizes))
    row.uniform_(-1.0, 1.0, generator=generator)
    bounds = [torch.full((i * o + o,), i**-0.5) for i, o in pairwise(sizes)]
    return row * torch.cat(bounds)
