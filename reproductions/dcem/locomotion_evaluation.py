"""Episodes after each phase of stage (c), and what an action costs (Fig. 4)."""

import json
from collections.abc import Callable
from pathlib import Path

from diffplan._runs.online import action_box, planning_agent
from diffplan._runs.settings import Settings
from diffplan._runs.stopwatch import Stopwatch
from diffplan._runs.tables import write_csv, write_text
from diffplan.agents import UniformAgent
from diffplan.agents._base import Agent
from diffplan.envs.vector import VectorEnv
from diffplan.objectives.reward import NegativeReturn
from diffplan.problem import Box, PlanningProblem
from diffplan.training.evaluate import Evaluation, evaluate
from diffplan.training.seeding import SIMULATOR_BITS, derive_seed
from reproductions.common.idle import still
from reproductions.dcem.locomotion_config import EmbeddingSettings, Place
from reproductions.dcem.locomotion_controller import ControllerAgent
from reproductions.dcem.locomotion_world import (
    environments,
    load_controller,
    load_model,
)

RETURNS, COST = "returns.csv", "cost.json"


def measure_random(place: Place, episodes: int, directory: Path) -> None:
    """Play episodes of random actions; writes `returns.csv`."""
    _measure(UniformAgent, place, episodes, directory)


def measure_still(place: Place, episodes: int, directory: Path) -> None:
    """Play episodes without an action; writes `returns.csv`."""
    _measure(still, place, episodes, directory)


def _measure(
    agent: Callable[[Box], Agent], place: Place, episodes: int, directory: Path
) -> None:
    with environments(place, place.world.test_envs) as envs:
        space, device = envs.single_action_space, place.world.resolve_device()
        found = _evaluate(agent(action_box(space, device)), envs, episodes, 0)
        _write(directory, found, None)


def measure_phase(
    place: Place,
    seed: int,
    planner: Settings | EmbeddingSettings,
    episodes: int,
    source: Path,
    directory: Path,
) -> None:
    """Play noise-free episodes with what a phase has learnt.

    Args:
        place: The task.
        seed: Of planning; all phases of a seed play the same episodes.
        planner: What plans, CEM or the embedded controller.
        episodes: How many.
        source: The folder of the phase.
        directory: Receives `returns.csv` and `cost.json`.
    """
    with environments(place, place.world.test_envs) as envs:
        box = action_box(envs.single_action_space, place.world.resolve_device())
        agent, dynamics = tested_agent(place, planner, source, box)
        deciding = Stopwatch(size=lambda decision: len(decision[0]))
        setattr(agent, "act", deciding.around(agent.act))  # noqa: B010 - of this one
        whole = Stopwatch()
        found = whole.around(_evaluate)(agent, envs, episodes, seed)
        cost = {
            "evaluations_per_action": dynamics.calls / deciding.calls,
            # Of whole episodes: filtering and the simulator included.
            "seconds_per_action": whole.wall / deciding.calls,
        }
        _write(directory, found, cost)


def tested_agent(
    place: Place, planner: Settings | EmbeddingSettings, source: Path, box: Box
) -> tuple[Agent, Stopwatch]:
    """Return the agent of a finished phase, and what counts its transitions."""
    world = place.world
    if isinstance(planner, Settings):
        model = load_model(source, box.low.device)
        objective = NegativeReturn(model.reward)
        planning = planning_agent(model, planner.build(), objective, box, world)
        planning.problem, dynamics = counted(planning.problem)
        return planning, dynamics
    controller = load_controller(source, planner, box)
    controller.problem, dynamics = counted(controller.problem)
    return ControllerAgent(controller, lambda: 0.0, world.posterior), dynamics


def counted(problem: PlanningProblem) -> tuple[PlanningProblem, Stopwatch]:
    """Return a problem with dynamics that are watched, and what counts its rows."""
    watch = Stopwatch(size=lambda states: states.shape[:-1].numel())
    dynamics = watch.around(problem.dynamics)
    return PlanningProblem(dynamics, problem.objective, problem.action_space), watch


def _evaluate(agent: Agent, envs: VectorEnv, episodes: int, seed: int) -> Evaluation:
    seeds = [
        derive_seed(seed, "locomotion test", number, bits=SIMULATOR_BITS)
        for number in range(episodes)
    ]
    agent_seed = derive_seed(seed, "locomotion test agent")
    return evaluate(agent, envs, seeds, agent_seed=agent_seed)


def _write(directory: Path, found: Evaluation, cost: dict[str, float] | None) -> None:
    if cost is not None:
        write_text(directory / COST, json.dumps(cost, indent=1) + "\n")
    returns = found.returns.tolist()
    rows = [{"episode": n, "return": value} for n, value in enumerate(returns)]
    write_csv(directory / RETURNS, rows)
