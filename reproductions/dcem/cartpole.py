"""Stage (b): a cartpole whose action sequences get a learned embedding (section 5.2.1).

Dynamics and cost are exact. A decoder turns a point of a small box into 20 actions, and
is trained through the search in that box: by DCEM, or at temperature 0 with the point
that CEM found held fixed. All seeds of a cell (a latent size with a temperature) are
one ensemble.
"""

import json
import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import elu

from diffplan._files import write_atomically
from diffplan._runs.tables import write_csv, write_text
from diffplan.models.analytic import Cartpole
from diffplan.objectives._base import StageObjective
from diffplan.planners import CEM, LatentActions
from diffplan.problem import Box, PlanningProblem
from diffplan.training.seeding import make_generator
from reproductions.common.stages import Unit
from reproductions.dcem.cartpole_config import (
    FORCE,
    HORIZON,
    CartpoleConfig,
    EmbeddingEvaluation,
    EmbeddingTraining,
    ExpertSettings,
)
from reproductions.dcem.ensemble import layers, network
from reproductions.dcem.training import EnsembleTraining

LIMITS = {"place": 0.5, "speed": 0.5, "angle": math.pi, "spin": 1.0}
"""Initial states are uniform between minus and plus these, in this order."""

STATES_AT_ONCE = 10
"""When many states are planned from: as many as fit into a processor's cache."""


class CartpoleCost(StageObjective):
    """-Σ (cos θ - 0.1 x² - 1e-5 u²) over the states before each action."""

    def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the cost of one step."""
        place, upright = state[..., 0], state[..., 2]
        return 0.1 * place.square() + 1e-5 * action[..., 0].square() - upright

    def terminal_cost(self, state: Tensor) -> Tensor:
        """Return zero: the last state counts nothing."""
        return torch.zeros_like(state[..., 0])


def cartpole_problem(compiled: bool = False) -> PlanningProblem:
    """Return the cartpole; with a compiled cost, each shape is compiled once."""
    problem = PlanningProblem(Cartpole(), CartpoleCost(), Box([-FORCE], [FORCE]))
    if compiled:
        problem.compile(fullgraph=True)
    return problem


def initial_states(count: int, generator: torch.Generator) -> Tensor:
    """Draw initial states `[count, 5]`."""
    drawn = {
        name: (2 * torch.rand(count, generator=generator) - 1) * limit
        for name, limit in LIMITS.items()
    }
    angle = drawn["angle"]
    columns = [drawn["place"], drawn["speed"], angle.cos(), angle.sin(), drawn["spin"]]
    return torch.stack(columns, dim=1)


def validation_states(count: int) -> Tensor:
    """Return the fixed states `[count, 5]`; those of the paper drew from seed 0 too."""
    return initial_states(count, torch.Generator().manual_seed(0))


def fresh_states(count: int) -> Tensor:
    """Return states `[count, 5]` that nothing was trained or chosen with."""
    return initial_states(count, make_generator(0, "cartpole", "fresh states"))


def embedding_planner(
    parameters: Tensor, latent: int, temperature: float, settings: EmbeddingTraining
) -> LatentActions:
    """Return the search in the latent spaces of M decoders.

    Args:
        parameters: `[M, P]`, the members' decoders.
        latent: Size of the latent space.
        temperature: Of DCEM; 0 is CEM.
        settings: Of decoder and search.
    """
    decoders = layers(parameters, settings.sizes(latent))

    def decode(point: Tensor) -> Tensor:
        share = torch.sigmoid(network(decoders, point, elu))
        return (FORCE * (2 * share - 1)).unsqueeze(-1)

    search = settings.search(temperature)
    return LatentActions(search, decode, latent, horizon=HORIZON)


def plan_costs(
    planner: LatentActions, problem: PlanningProblem, states: Tensor, noise: Tensor
) -> Tensor:
    """Return the costs `[B]` of the plans from states `[B, 5]`.

    The point that was found is decoded again: at temperature 0 it is a constant, and
    this is where the decoder's gradient comes from. With DCEM it is the same plan.
    """
    plan = planner(problem, states, noise=noise, evaluate=False)
    actions = planner.decode(problem, plan.diagnostics["latent"])
    return problem.cost(states, actions)


class EmbeddingEnsemble(EnsembleTraining):
    """The decoders of several seeds in training.

    Args:
        latent: Size of the latent space.
        temperature: Of DCEM; 0 is CEM.
        seeds: One member each; they differ in weights, states and noise.
        settings: Of the training.
    """

    def __init__(
        self,
        latent: int,
        temperature: float,
        seeds: Sequence[int],
        settings: EmbeddingTraining,
    ) -> None:
        names = ("cartpole", latent, str(temperature))
        generators = [make_generator(seed, *names) for seed in seeds]
        sizes = settings.sizes(latent)
        rows = torch.stack([_decoder_weights(sizes, g) for g in generators])
        every = settings.validate_every
        super().__init__(seeds, rows, generators, settings.optimizer, every)
        self.latent, self.temperature, self.settings = latent, temperature, settings
        self.problem = cartpole_problem(settings.compile)
        self.validation = validation_states(settings.validation_states)

    def planner(self, parameters: Tensor) -> LatentActions:
        """Return the search with these decoders."""
        return embedding_planner(
            parameters, self.latent, self.temperature, self.settings
        )

    def gradient(self) -> Tensor:
        """Return the gradients of the plans' costs, each from one state of its own."""
        states = torch.cat([initial_states(1, g) for g in self.generators])
        noise = _noise(self.settings, self.latent, 1, self.generators)
        planner = self.planner(self.parameters)
        costs = plan_costs(planner, self.problem, states, noise)
        # A sum over members: each term depends on one row of parameters.
        (gradient,) = torch.autograd.grad(costs.sum(), self.parameters)
        return gradient

    def errors(self) -> list[float]:
        """Return the mean costs on the validation states."""
        costs = self.costs(self.parameters, self.validation, self.generators)
        means: list[float] = costs.mean(dim=1).tolist()
        return means

    @torch.no_grad()
    def costs(
        self,
        parameters: Tensor,
        states: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """Return the costs `[M, R]` of all members' plans from states `[R, 5]`."""
        planner, found = self.planner(parameters), []
        for part in states.split(STATES_AT_ONCE):
            noise = _noise(self.settings, self.latent, len(part), generators)
            repeated = part.repeat(len(generators), 1)
            costs = plan_costs(planner, self.problem, repeated, noise)
            found.append(costs.view(len(generators), -1))
        return torch.cat(found, dim=1)


# Units


def units(config: CartpoleConfig, seeds: Sequence[int], directory: Path) -> list[Unit]:
    """Return the work of stage (b): the expert, then each cell and its tests."""
    training = config.training
    expert = directory / "expert"
    made = [
        Unit(
            "cartpole/expert",
            partial(
                run_expert,
                settings=config.expert,
                validation=training.validation_states,
                fresh=config.evaluation.fresh_states,
                directory=expert,
            ),
            expert,
        )
    ]
    cells = [(d, t) for t in config.temperatures for d in config.latents]
    for latent, temperature in cells:
        name = cell_name(latent, temperature)
        model, tests = directory / name, directory / f"{name}_tests"
        common: dict[str, Any] = {
            "latent": latent,
            "temperature": temperature,
            "seeds": tuple(seeds),
            "settings": training,
        }
        made.append(
            Unit(f"cartpole/{name}", partial(train, **common, directory=model), model)
        )
        made.append(
            Unit(
                f"cartpole/{name}_tests",
                partial(
                    test,
                    **common,
                    evaluation=config.evaluation,
                    model=model,
                    directory=tests,
                ),
                tests,
                (f"cartpole/{name}",),
            )
        )
    return made


def cell_name(latent: int, temperature: float) -> str:
    """Return the folder's name, such as `latent_2_tau_0.1`."""
    return f"latent_{latent}_tau_{temperature:g}"


@torch.no_grad()
def run_expert(
    settings: ExpertSettings, validation: int, fresh: int, directory: Path
) -> None:
    """Plan with CEM in the space of actions; writes `expert.json`.

    Mean costs on the validation states, one per repeat, and on the fresh states.
    """
    problem, planner = cartpole_problem(), settings.build()
    states = validation_states(validation)
    costs = [
        _expert_cost(planner, problem, states, index)
        for index in range(settings.repeats)
    ]
    content = {
        "validation": costs,
        "fresh": _expert_cost(planner, problem, fresh_states(fresh), 0),
    }
    write_text(directory / "expert.json", json.dumps(content, indent=1) + "\n")


def train(
    latent: int,
    temperature: float,
    seeds: Sequence[int],
    settings: EmbeddingTraining,
    directory: Path,
) -> None:
    """Train one cell; see `EnsembleTraining.run`."""
    EmbeddingEnsemble(latent, temperature, seeds, settings).run(
        directory, settings.updates, settings.checkpoint_every, settings
    )


def test(
    latent: int,
    temperature: float,
    seeds: Sequence[int],
    settings: EmbeddingTraining,
    evaluation: EmbeddingEvaluation,
    model: Path,
    directory: Path,
) -> None:
    """Plan from fresh states with the last and the best decoders.

    Writes `costs.csv` and, for a latent space of size 2, `surface.npz`: costs
    `[M, states, grid, grid]`, the first latent number along the third dimension.
    """
    ensemble = EmbeddingEnsemble(latent, temperature, seeds, settings)
    ensemble.load(model)
    rows: list[dict[str, object]] = [{"seed": seed} for seed in seeds]
    for name, parameters in (
        ("last", ensemble.parameters.detach()),
        ("best", ensemble.best),
    ):
        for kind, states in (
            ("fresh", fresh_states(evaluation.fresh_states)),
            ("validation", ensemble.validation),
        ):
            generators = [make_generator(seed, name, kind) for seed in seeds]
            costs = ensemble.costs(parameters, states, generators)
            for row, cost in zip(rows, costs.mean(dim=1).tolist(), strict=True):
                row[f"{name}_{kind}"] = cost
    write_csv(directory / "costs.csv", rows)
    if latent == 2:
        found = surfaces(ensemble, evaluation).numpy()
        write_atomically(
            directory / "surface.npz",
            lambda file: np.savez_compressed(file, costs=found, seeds=np.array(seeds)),
        )


@torch.no_grad()
def surfaces(ensemble: EmbeddingEnsemble, evaluation: EmbeddingEvaluation) -> Tensor:
    """Return the costs of a grid of latent points `[M, states, grid, grid]`.

    From validation states, with the best decoders.
    """
    line = torch.linspace(-1, 1, evaluation.grid)
    points = torch.cartesian_prod(line, line)
    members, problem = len(ensemble.seeds), cartpole_problem()
    actions = ensemble.planner(ensemble.best).decode(
        problem, points.expand(members, -1, -1)
    )
    states = ensemble.validation[: evaluation.surfaces]
    shape = (members, len(points), 5)
    costs = [problem.cost(state.expand(shape), actions) for state in states]
    grid = (evaluation.grid, evaluation.grid)
    return torch.stack(costs, dim=1).reshape(members, len(states), *grid)


def _expert_cost(
    planner: CEM, problem: PlanningProblem, states: Tensor, index: int
) -> float:
    generator = make_generator(0, "cartpole", "expert", index)
    costs = [
        planner(problem, part, generator=generator).cost for part in states.split(100)
    ]
    return float(torch.cat(costs).mean())


def _noise(
    settings: EmbeddingTraining,
    latent: int,
    count: int,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Draw the search's noise for `count` states per member, each from its own."""
    shape = (count, settings.iterations, settings.num_samples, 1, latent)
    return torch.cat([torch.randn(shape, generator=g) for g in generators])


def _decoder_weights(sizes: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw one decoder: weights N(0, 4 / (inputs + outputs)), biases zero."""
    parts = []
    for inputs, outputs in pairwise(sizes):
        std = 2 / math.sqrt(inputs + outputs)
        parts += [
            std * torch.randn(inputs * outputs, generator=generator),
            torch.zeros(outputs),
        ]
    return torch.cat(parts)
