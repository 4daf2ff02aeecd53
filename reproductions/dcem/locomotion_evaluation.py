"""Episodes after each phase of stage (c), and what an action costs (Fig. 4)."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from diffplan.agents import UniformAgent
from diffplan.agents._base import Agent, AgentState
from diffplan.envs.vector import VectorEnv
from diffplan.problem import Box, PlanningProblem
from diffplan.training.evaluate import Evaluation, evaluate
from diffplan.training.seeding import SIMULATOR_BITS, derive_seed
from reproductions.common.tables import write_csv, write_text
from reproductions.dcem.locomotion_config import (
    EmbeddingSettings,
    Place,
    SearchSettings,
)
from reproductions.dcem.locomotion_controller import ControllerAgent, CountedDynamics
from reproductions.dcem.locomotion_world import (
    action_box,
    environments,
    load_controller,
    load_model,
    planning_agent,
)

RETURNS, COST = "returns.csv", "cost.json"


class Meter:
    """Counts the transitions that an agent's planner evaluates, and takes the time.

    As an observer of `evaluate` it counts the actions.

    Args:
        dynamics: Those that are planned with.
    """

    def __init__(self, dynamics: CountedDynamics) -> None:
        self.dynamics, self.actions = dynamics, 0
        self.start = time.perf_counter()

    def __call__(
        self,
        first: int,
        observations: np.ndarray,
        memory: AgentState,
    ) -> None:
        """Count the actions of one decision, one in each environment."""
        self.actions += memory.batch_size

    def cost(self) -> dict[str, float]:
        """Return what one action cost; the seconds are those of whole episodes."""
        seconds = time.perf_counter() - self.start
        return {
            "evaluations_per_action": self.dynamics.evaluations / self.actions,
            "seconds_per_action": seconds / self.actions,
        }


def measure_random(place: Place, episodes: int, directory: Path) -> None:
    """Play episodes of random actions; writes `returns.csv`."""
    with environments(place, place.world.test_envs) as envs:
        agent = UniformAgent(action_box(envs, place.world.resolve_device()))
        _write(directory, _evaluate(agent, envs, episodes, 0), None)


def measure_phase(
    place: Place,
    seed: int,
    planner: SearchSettings | EmbeddingSettings,
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
        box = action_box(envs, place.world.resolve_device())
        agent, dynamics = tested_agent(place, planner, source, box)
        meter = Meter(dynamics)
        found = _evaluate(agent, envs, episodes, seed, meter)
        _write(directory, found, meter.cost())


def tested_agent(
    place: Place, planner: SearchSettings | EmbeddingSettings, source: Path, box: Box
) -> tuple[Agent, CountedDynamics]:
    """Return the agent of a finished phase, and the dynamics that it plans with."""
    world = place.world
    if isinstance(planner, SearchSettings):
        model = load_model(source, box.low.device)
        planning = planning_agent(model, planner, box, world)
        planning.problem, dynamics = _counted(planning.problem)
        return planning, dynamics
    controller = load_controller(source, planner, box)
    controller.problem, dynamics = _counted(controller.problem)
    return ControllerAgent(controller, lambda: 0.0, world.posterior), dynamics


def _counted(problem: PlanningProblem) -> tuple[PlanningProblem, CountedDynamics]:
    """Return the same problem on dynamics that count."""
    dynamics = CountedDynamics(problem.dynamics)
    counted = PlanningProblem(dynamics, problem.objective, problem.action_space)
    return counted, dynamics


def _evaluate(
    agent: Agent, envs: VectorEnv, episodes: int, seed: int, observer: Any = None
) -> Evaluation:
    seeds = [
        derive_seed(seed, "locomotion test", number, bits=SIMULATOR_BITS)
        for number in range(episodes)
    ]
    agent_seed = derive_seed(seed, "locomotion test agent")
    return evaluate(agent, envs, seeds, agent_seed=agent_seed, observer=observer)


def _write(directory: Path, found: Evaluation, cost: dict[str, float] | None) -> None:
    if cost is not None:
        write_text(directory / COST, json.dumps(cost, indent=1) + "\n")
    returns = found.returns.tolist()
    rows = [{"episode": n, "return": value} for n, value in enumerate(returns)]
    write_csv(directory / RETURNS, rows)
