"""Stage (a): planners compared on one frozen model of sparse Meta-World reach.

For each training seed: collect offline data, fit a small RSSM to it, then let every
planner act with that model from the same starts. What is compared is planning alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import diffplan.envs
from diffplan._runs.online import action_box, resolve_device
from diffplan._runs.settings import Settings
from diffplan._runs.stopwatch import Stopwatch, planner_watch
from diffplan._runs.tables import write_csv
from diffplan.agents import Agent, PlanningAgent
from diffplan.errors import ArgumentError, DiffplanError
from diffplan.models.base import WorldModel
from diffplan.models.rssm import RSSM
from diffplan.objectives._base import StageObjective
from diffplan.objectives.reward import NegativeReturn, SoftplusReward
from diffplan.planners.base import Planner
from diffplan.planners.collocation import LatCo
from diffplan.planners.second_order import ShootingGN
from diffplan.problem import Box
from diffplan.training._interaction import run_episodes
from diffplan.training.episode import Episode
from diffplan.training.seeding import derive_seed
from reproductions.common.stages import Unit
from reproductions.latco import reward_heads
from reproductions.latco.comparison_config import (
    STATE_VECTORS,
    ComparisonConfig,
    EvaluationConfig,
    Setup,
)
from reproductions.latco.comparison_model import WEIGHTS, train
from reproductions.latco.comparison_planners import evaluations, plans
from reproductions.latco.comparison_result import (
    ABLATIONS,
    EXPERIMENT,
    HEADS,
    MODEL_NO_BELIEF,
    NO_BELIEF,
)
from reproductions.latco.comparison_trace import trace
from reproductions.latco.data import collect
from reproductions.latco.iterates import start_seeds

NATIVE = "_native"
"""Ends the name of a planner that differs from another in its engine alone."""


def units(
    config: ComparisonConfig,
    seeds: Sequence[int],
    directory: Path,
    experiment: str = EXPERIMENT,
) -> list[Unit]:
    """Return the work of stage (a).

    Args:
        config: The settings.
        seeds: One model is trained for each.
        directory: Receives `seed_<n>/{data,model,trace,<planner>}`.
        experiment: First part of the units' names.

    Raises:
        ArgumentError: a planner cannot be built with its settings; says which.
    """
    for name in config.planners:
        settings = config.settings(name)
        try:
            if plans(settings):
                settings.build(config.evaluation.horizon)
        except DiffplanError as error:
            raise ArgumentError(f"{experiment}.{name}: {error}") from error
    places = [(of_seed(experiment, seed, directory), seed) for seed in seeds]
    return [
        made
        for unit, seed in places
        for made in _units_of(config, seed, directory / f"seed_{seed}", unit)
    ]


def ablation_units(
    config: ComparisonConfig, seeds: Sequence[int], directory: Path
) -> list[Unit]:
    """Return the work of Table 3: other planners with the models of stage (a).

    One of them has a model of its own, fitted to the same data.

    Args:
        config: The settings; data and models are made where stage (a) looks for them.
        seeds: One model is trained for each.
        directory: Receives `seed_<n>/<planner>`, and the other model.
    """
    made = model_units(config, seeds, directory)
    for seed in seeds:
        unit, stage_a = of_seed(ABLATIONS, seed, directory), f"{EXPERIMENT}/seed_{seed}"
        if NO_BELIEF in config.planners:
            data = f"{stage_a}/data"
            fitting = _fitting(config, config.model_no_belief, directory.parent / data)
            made.append(unit(MODEL_NO_BELIEF, fitting, data))
        needs = f"{stage_a}/data", f"{stage_a}/model"
        places = [directory.parent / need for need in needs]
        made += [unit(HEADS, fit, *needs) for fit in _fitting_heads(config, *places)]
        for name in config.planners:
            model = f"{stage_a}/model"
            if name == NO_BELIEF:
                model = f"{ABLATIONS}/seed_{seed}/{MODEL_NO_BELIEF}"
            path, own = directory.parent / model, directory / f"seed_{seed}"
            made.append(_acting(config, unit, name, path, own, model))
    return made


def model_units(
    config: ComparisonConfig, seeds: Sequence[int], directory: Path
) -> list[Unit]:
    """Return the units of stage (a) that other stages plan with: data and models.

    Args:
        config: The settings.
        seeds: One model is trained for each.
        directory: Of the other stage, beside which stage (a) has its own.
    """
    made = units(config, seeds, directory.with_name(EXPERIMENT))
    return [unit for unit in made if unit.name.endswith(("/data", "/model"))]


def of_seed(experiment: str, seed: int, directory: Path) -> Callable[..., Unit]:
    """Return what makes a training seed's units, of a name, work and units needed.

    These are of the same experiment and seed, unless they are named in full.

    Args:
        experiment: First part of the names.
        seed: Given to the work.
        directory: Receives `seed_<n>/<name>`.
    """
    folder, prefix = directory / f"seed_{seed}", f"{experiment}/seed_{seed}"

    def unit(name: str, run: partial[None], *needs: str) -> Unit:
        bound = partial(run, directory=folder / name, seed=seed)
        wanted = tuple(n if "/" in n else f"{prefix}/{n}" for n in needs)
        return Unit(f"{prefix}/{name}", bound, folder / name, wanted)

    return unit


def _units_of(
    config: ComparisonConfig, seed: int, folder: Path, unit: Callable[..., Unit]
) -> list[Unit]:
    data, path, more = config.data, folder / "model", config.own_setup()
    needs = ("data", "model")
    heads = _fitting_heads(config, folder / "data", path)
    made = [
        unit("data", partial(collect, data=data, **more)),
        unit("model", _fitting(config, config.model, folder / "data"), "data"),
        *(unit(HEADS, fit, *needs) for fit in heads),
    ]
    for name in config.planners:
        if name == "latco_native" and seed != 0:
            continue  # twice LatCo's time, to show once that the engine does not count
        made.append(_acting(config, unit, name, path, folder, "model"))
    run = partial(
        trace,
        settings=config.latco,
        model_path=path / WEIGHTS,
        task=data.task,
        evaluation=config.evaluation,
        **more,
    )
    return [*made, unit("trace", run, "model")]


def _fitting(config: ComparisonConfig, model: Settings, data: Path) -> partial[None]:
    return partial(
        train,
        data=config.data,
        data_directory=data,
        model=model,
        training=config.training,
        **config.own_setup(),
    )


def _fitting_heads(
    config: ComparisonConfig, data: Path, model: Path
) -> list[partial[None]]:
    """Return the fit of reward heads, if some planner reads them."""
    fitting = partial(
        reward_heads.fit,
        model_path=model / WEIGHTS,
        data_directory=data,
        data=config.data,
        heads=config.heads,
        **config.own_setup(),
    )
    return [fitting] if reward_heads.READ.keys() & {*config.planners} else []


def _acting(
    config: ComparisonConfig,
    unit: Callable[..., Unit],
    planner: str,
    model: Path,
    folder: Path,
    *needs: str,
) -> Unit:
    """Return the work of a planner that acts with a model."""
    more: dict[str, Any] = config.own_setup()
    if planner in reward_heads.READ:
        more["heads"], needs = folder / HEADS / reward_heads.WEIGHTS, (*needs, HEADS)
    acting = partial(
        evaluate,
        planner=planner,
        settings=config.settings(planner),
        model_path=model / WEIGHTS,
        task=config.data.task,
        evaluation=config.evaluation,
        **more,
    )
    return unit(planner, acting, *needs)


@dataclass(frozen=True)
class Row:
    """One episode of one planner, a line of `results.csv`.

    Attributes:
        seed: Of data, model and planner.
        planner: Name.
        start: Number of the start; the same start for all planners and seeds.
        initial_distance: Hand to (-0.1, 0.8, 0.12), metres: the axis of LatCo's Fig. 4.
        goal_distance: Finger centre to goal at the start, metres.
        solved_at_start: 1 if nothing was left to do.
        success: 1 if any step was within 5 cm of the goal, as LatCo counts.
        first_success: Its first such step, 1-based; 0 if none.
        episode_return: Sum of the sparse rewards.
        predicted_return: Of the first plan, by the model that it was made with.
        plans: Number of plans in the episode.
        model_evaluations: Of one plan: model steps, of collocation Jacobians.
        plan_seconds: Wall-clock seconds per plan; all starts are planned together.
        plan_cpu_seconds: Processor seconds per plan, less disturbed by other programs.
        decision_seconds: Wall-clock seconds of the agent per decision: planning and
            filtering, without the simulator.
    """

    seed: int
    planner: str
    start: int
    initial_distance: float
    goal_distance: float
    solved_at_start: int
    success: int
    first_success: int
    episode_return: float
    predicted_return: float
    plans: int
    model_evaluations: int
    plan_seconds: float
    plan_cpu_seconds: float
    decision_seconds: float = 0.0


def evaluate(
    directory: Path,
    model_path: Path,
    task: str,
    planner: str,
    settings: Settings,
    evaluation: EvaluationConfig,
    seed: int,
    setup: Setup = STATE_VECTORS,
    heads: Path | None = None,
) -> None:
    """Let one planner act from every start; write `results.csv`."""
    device = resolve_device(setup.device)
    model = RSSM.load(model_path).eval().to(device)
    reward = reward_heads.load(model, heads, planner) if heads else model.reward
    watch, make = planner_watch(), diffplan.envs.make_vector
    with make(task, evaluation.starts, **setup.seen) as environments:
        box = action_box(environments.single_action_space, device)
        agent = make_agent(model, settings, evaluation, box, watch, reward)
        whole = Stopwatch(size=lambda answer: len(answer[0]))
        agent.act = whole.around(agent.act)  # type: ignore[method-assign]
        episodes = run_episodes(
            agent,
            environments,
            start_seeds(evaluation),
            # Two engines of one planner begin at the same random points.
            agent_seed=derive_seed(seed, "planner", planner.removesuffix(NATIVE)),
        )
    rows = summarise(
        episodes,
        model,
        watch,
        seed=seed,
        planner=planner,
        evaluations=evaluations(settings, evaluation.horizon),
        decision_seconds=whole.wall / max(whole.calls, 1),
    )
    write_csv(directory / "results.csv", [asdict(row) for row in rows])


def make_agent(
    model: WorldModel,
    settings: Settings,
    evaluation: EvaluationConfig,
    box: Box,
    watch: Stopwatch,
    reward: Callable[[Tensor], Tensor],
) -> Agent:
    """Return the agent of one planner; nothing but planner and reward differs."""
    if not plans(settings):
        agent: Agent = settings.build(box)
        return agent
    planner: Planner = settings.build(evaluation.horizon)
    if box.low.is_cuda:
        planner.capture()
    watch.watch(planner)
    return PlanningAgent(
        model,
        planner,
        objective_of(reward, planner),
        box,
        replan_every=evaluation.execute,
        warm_start=False,
        posterior="mean",
    )


def objective_of(
    reward: Callable[[Tensor], Tensor], planner: Planner
) -> StageObjective:
    """Return what a planner minimises.

    The sum of predicted rewards is maximised. Gauss-Newton, LatCo's and that of
    shooting, minimises a residual form of it.
    """
    squares = isinstance(planner, LatCo | ShootingGN)
    return (SoftplusReward if squares else NegativeReturn)(reward)


@torch.no_grad()
def summarise(
    episodes: Sequence[Episode],
    model: RSSM,
    watch: Stopwatch,
    *,
    seed: int,
    planner: str,
    evaluations: int,
    decision_seconds: float = 0.0,
) -> list[Row]:
    """Return one row per episode."""
    predicted = torch.full((len(episodes),), torch.nan)
    if watch.first is not None:
        predicted = model.reward(watch.first.states[:, 1:]).sum(dim=-1).cpu()
    rows = []
    for index, episode in enumerate(episodes):
        hits = np.flatnonzero(episode.rewards > 0)
        rows.append(
            Row(
                seed=seed,
                planner=planner,
                start=index,
                initial_distance=round(episode.initial_info["initial_distance"], 5),
                goal_distance=round(episode.initial_info["distance"], 5),
                solved_at_start=int(episode.initial_info["success"]),
                success=int(len(hits) > 0),
                first_success=int(hits[0]) + 1 if len(hits) else 0,
                episode_return=episode.episode_return,
                predicted_return=round(float(predicted[index]), 4),
                plans=watch.calls // len(episodes),
                model_evaluations=evaluations,
                plan_seconds=round(watch.wall / max(watch.calls, 1), 5),
                plan_cpu_seconds=round(watch.cpu / max(watch.calls, 1), 5),
                decision_seconds=round(decision_seconds, 6),
            )
        )
    return rows
