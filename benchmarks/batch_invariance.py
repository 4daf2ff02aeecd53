"""Does an episode depend on how many are planned together? Stage (a) of LatCo answers.

    python benchmarks/batch_invariance.py [--quick]

Collects the data and fits the model of the reproduction's stage (a), which is kept in
the directory, then lets each planner act from the same starts, in batches of 1 and of
all of them. The model is in float32. Episodes that differ are explained by their first
plans, which are made once more in float64: what is rounding becomes smaller there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measuring import Parser, settings, write_results

import diffplan.envs
from diffplan._runs.online import action_box
from diffplan.models.rssm import RSSM
from diffplan.problem import PlanningProblem
from diffplan.training._interaction import run_episodes
from diffplan.training.episode import Episode
from diffplan.training.seeding import derive_seed
from reproductions.latco.comparison import (
    make_agent,
    objective_of,
    planner_watch,
    start_seeds,
    units,
)
from reproductions.latco.comparison_config import ComparisonConfig
from reproductions.latco.comparison_model import ACTION_DIM

Found = dict[str, Any]


def trained_model(config: ComparisonConfig, directory: Path) -> RSSM:
    """Return the model of stage (a) and seed 0, fitted unless the directory has it."""
    path = directory / "seed_0" / "model" / "model.pt"
    if not path.exists():
        for unit in units(config, [0], directory)[:2]:
            unit.directory.mkdir(parents=True, exist_ok=True)
            unit.run()
    return RSSM.load(path).eval()


def episodes_of(
    model: RSSM, config: ComparisonConfig, planner: str, batch: int
) -> list[Episode]:
    """Return one episode per start, that many planned together."""
    evaluation = config.evaluation
    with diffplan.envs.make_vector(config.data.task, batch) as environments:
        box = action_box(environments.single_action_space)
        settings, watch = config.settings(planner), planner_watch()
        agent = make_agent(model, settings, evaluation, box, watch, model.reward)
        return run_episodes(
            agent,
            environments,
            start_seeds(evaluation),
            agent_seed=derive_seed(0, "planner", planner),
        )


def compared(alone: list[Episode], together: list[Episode]) -> Mapping[str, Any]:
    """Return successes of both, the episodes that differ in it, and by how much."""
    won = [[bool((e.rewards > 0).any()) for e in found] for found in (alone, together)]
    pairs = zip(*won, strict=True)
    differences = [
        float(np.abs(a.actions - b.actions).max())
        for a, b in zip(alone, together, strict=True)
    ]
    return {
        "successes_alone": sum(won[0]),
        "successes_together": sum(won[1]),
        "other_outcome": [start for start, (a, b) in enumerate(pairs) if a != b],
        "largest_difference_of_actions": differences,
    }


@torch.no_grad()
def first_plans(model: RSSM, config: ComparisonConfig, planner: str) -> list[float]:
    """Return how far each start's first plan, made alone, is from that of the batch."""
    starts = config.evaluation.starts
    with diffplan.envs.make_vector(config.data.task, starts) as environments:
        box = action_box(environments.single_action_space)
        observations, _ = environments.reset(start_seeds(config.evaluation))
    like = next(model.parameters())
    state = model.observe(
        model.initial_state((starts,)),
        torch.zeros(starts, ACTION_DIM).to(like),
        torch.from_numpy(observations).to(like),
    )
    chosen = config.settings(planner)
    made = chosen.build(config.evaluation.horizon)
    problem = PlanningProblem(model.step, objective_of(model.reward, made), box)
    keys = torch.arange(starts)
    together = made(problem, state, keys=keys).actions
    return [
        float(
            (made(problem, state[one], keys=keys[one]).actions[0] - together[start])
            .abs()
            .max()
        )
        for start, one in enumerate(keys[:, None])
    ]


def main() -> None:
    """Measure and write the results."""
    parser = Parser(__doc__, quick="a model of no use, fast")
    parser.add_argument("--directory", type=Path, default=Path("runs/batch_invariance"))
    parser.add_argument("--planners", nargs="+", default=["latco", "cem", "mppi"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = ComparisonConfig.smoke() if given.quick else ComparisonConfig()
    # A quick model in the directory would be taken for the one of the paper.
    directory = given.output if given.quick else given.directory
    model = trained_model(config, directory)
    double = trained_model(config, directory).double()
    starts = config.evaluation.starts
    results: Found = {"starts": starts}
    for planner in given.planners:
        alone, together = (
            episodes_of(model, config, planner, batch) for batch in (1, starts)
        )
        results[planner] = {
            **compared(alone, together),
            "first_plans_float32": first_plans(model, config, planner),
            "first_plans_float64": first_plans(double, config, planner),
        }
        print(planner, results[planner], flush=True)
        write_results(given.output / "batch_invariance.json", settings(given), results)


if __name__ == "__main__":
    main()
