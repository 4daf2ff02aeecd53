"""Contests on frozen models: candidates (Fig. 4), settings of Grad-MPC, refinements."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from diffplan._runs.settings import Settings
from reproductions.common import idle
from reproductions.common.stages import Unit
from reproductions.grad_mpc import settings
from reproductions.grad_mpc.contest import (
    REFERENCES,
    Contender,
    PolicyCEM,
    dream_mpc,
    refined,
    unit,
)
from reproductions.grad_mpc.dreamer_settings import DreamerStage
from reproductions.grad_mpc.online import run_unit, train_dreamer
from reproductions.grad_mpc.settings import PlanetConfig

PLANET, TRAINED_WITH = "planet", "grad_mpc"
"""The experiment, and the planner, whose runs give the frozen models."""
DREAMER = "dreamer"
"""That whose runs give policies."""


@dataclass(frozen=True)
class CandidatesConfig:
    """Return against the number of candidates, for Grad-MPC and CEM (Fig. 4).

    Attributes:
        tasks: Whose models are used.
        planet: Their runs.
        counts: Candidates of Grad-MPC.
        iterations: Its gradient steps.
        starts: Test episodes of each.
    """

    tasks: tuple[str, ...] = ("cartpole-swingup", "reacher-easy", "cheetah-run")
    planet: PlanetConfig = field(default_factory=PlanetConfig)
    counts: tuple[int, ...] = (1, 10, 100, 1000)
    iterations: int = 40
    starts: int = 10

    def contenders(self) -> list[Contender]:
        """Return Grad-MPC and CEM with as many steps of the model, for each count."""
        made = list(REFERENCES)
        gradient, search = self.planet.grad_mpc, self.planet.cem
        horizon = self.planet.run.planner.horizon
        for count in self.counts:
            own = gradient.replaced(num_starts=count, iterations=self.iterations)
            made.append(Contender(f"grad_mpc_{count}", "plan", own, horizon))
            samples = max(count * self.iterations // search["iterations"], 2)
            elites = max(samples // 10, 1)
            same = search.replaced(num_samples=samples, num_elites=elites)
            made.append(Contender(f"cem_{count}", "plan", same, horizon))
        return made


@dataclass(frozen=True)
class SweepConfig:
    """What the paper leaves open, tried on frozen models at equal candidates.

    Attributes:
        tasks: Whose models are used.
        planet: Their runs.
        optimizers: Of the actions.
        step_sizes: Of each; the four that the paper lists, and larger ones.
        clips: Largest norm of an action's gradient; 0 does not clip.
        keep_best: Whether the cheapest iterate is returned, or the last.
        starts: Test episodes of each.
    """

    tasks: tuple[str, ...] = ("cartpole-swingup", "reacher-easy", "cheetah-run")
    planet: PlanetConfig = field(default_factory=PlanetConfig)
    optimizers: tuple[str, ...] = ("sgd", "adam", "rmsprop")
    step_sizes: tuple[float, ...] = (0.0001, 0.005, 0.01, 0.1, 0.5)
    clips: tuple[float, ...] = (0.0, 1.0)
    keep_best: tuple[bool, ...] = (False, True)
    starts: int = 10

    def contenders(self) -> list[Contender]:
        """Return Grad-MPC with each of the settings."""
        base, horizon = self.planet.grad_mpc, self.planet.run.planner.horizon
        made = list(REFERENCES)
        grid = (self.optimizers, self.step_sizes, self.clips, self.keep_best)
        for optimizer, size, clip, best in itertools.product(*grid):
            own = base.replaced(
                optimizer=optimizer, step_size=size, clip=clip or None, keep_best=best
            )
            name = f"{optimizer}_{size:g}" + f"_clip{clip:g}" * bool(clip)
            made.append(Contender(name + "_best" * best, "plan", own, horizon))
        return made


def planet_units(
    experiment: str,
    config: CandidatesConfig | SweepConfig,
    seeds: Sequence[int],
    directory: Path,
) -> list[Unit]:
    """Return the contests of an experiment, and the runs whose models they use."""
    made = []
    for task in config.tasks:
        for seed in seeds:
            place = directory.parent / PLANET
            chosen = (task, TRAINED_WITH, seed, place)
            source = run_unit(PLANET, config.planet, *chosen)
            played = unit(
                f"{experiment}/{task}/seed_{seed}",
                config.contenders(),
                source,
                config.planet.of(task, TRAINED_WITH),
                starts=config.starts,
                seed=seed,
                folder=directory / task / f"seed_{seed}",
            )
            made += [source, played]
    return made


def policy_contenders(stage: DreamerStage) -> list[Contender]:
    """Return the plain policy, and what refines it."""
    search = Settings(PolicyCEM, num_samples=100, num_elites=10, iterations=4)
    return [
        *REFERENCES,
        Contender("policy", "policy"),
        *(
            refined(1, count, size)
            for count in stage.iterations
            for size in stage.step_sizes
        ),
        *(refined(1, stage.cautious, size, "least") for size in stage.step_sizes),
        *(
            refined(horizon, stage.iterations[-1], size)
            for horizon in stage.longer
            for size in stage.step_sizes
        ),
        *(
            Contender(f"policy_cem_h{h}", "from_policy", search, h, "return")
            for h in (1, *stage.longer)
        ),
        *itertools.starmap(dream_mpc, itertools.product((False, True), repeat=2)),
    ]


def dreamer_units(
    stage: DreamerStage, seeds: Sequence[int], directory: Path
) -> list[Unit]:
    """Return the runs of Dreamer, and what their tasks give away."""
    runs = [
        _dreamer_run(stage, task, seed, directory)
        for task in stage.tasks
        for seed in seeds
    ]
    return runs + [
        idle.unit(DREAMER, stage.of(task), directory / task) for task in stage.tasks
    ]


def refinement_units(
    stage: DreamerStage, seeds: Sequence[int], directory: Path
) -> list[Unit]:
    """Return contests with Dreamer's policies, and the runs that these come from."""
    made = []
    for task in stage.tasks:
        for seed in seeds:
            source = _dreamer_run(stage, task, seed, directory.parent / DREAMER)
            played = unit(
                f"refinement/{task}/seed_{seed}",
                policy_contenders(stage),
                source,
                stage.of(task),
                starts=stage.starts,
                seed=seed,
                folder=directory / task / f"seed_{seed}",
                together=stage.starts,  # of few candidates each
            )
            made += [source, played]
    return made


def _dreamer_run(stage: DreamerStage, task: str, seed: int, directory: Path) -> Unit:
    folder = directory / task / f"seed_{seed}" / "run"
    work = partial(train_dreamer, run=stage.of(task), seed=seed, directory=folder)
    return Unit(f"{DREAMER}/{task}/seed_{seed}", work, folder)


def small_candidates() -> CandidatesConfig:
    """Return what two cores can do: one task, fewer steps."""
    return CandidatesConfig(
        tasks=("cartpole-swingup",), planet=settings.small(), iterations=10, starts=5
    )


def tiny_candidates() -> CandidatesConfig:
    """Return contests of seconds."""
    return CandidatesConfig(
        tasks=("cartpole-swingup",),
        planet=settings.tiny(),
        counts=(1, 4),
        iterations=2,
        starts=2,
    )


def small_sweep() -> SweepConfig:
    """Return what two cores can do."""
    return SweepConfig(planet=settings.small(), starts=5)


def tiny_sweep() -> SweepConfig:
    """Return contests of seconds."""
    return SweepConfig(
        tasks=("cartpole-swingup",),
        planet=settings.tiny(),
        optimizers=("sgd",),
        step_sizes=(0.1,),
        clips=(0.0,),
        starts=2,
    )
