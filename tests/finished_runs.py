"""Evaluations of LatCo's comparison, as files: for tests of the reports."""

import json
from pathlib import Path

from diffplan._runs.tables import write_csv
from reproductions.common.stages import DONE
from reproductions.latco import comparison
from reproductions.latco.comparison_config import ComparisonConfig


def finished(
    folder: Path,
    planner: str,
    seed: int,
    hits: list[int],
    task: str = "metaworld/reach",
    stage: str = "comparison",
    decision_seconds: float = 0.0,
) -> None:
    """Write what an evaluation of these successes leaves behind."""
    config = ComparisonConfig()
    rows = [
        comparison.Row(
            seed=seed,
            planner=planner,
            start=start,
            initial_distance=0.1 * (start + 1),
            goal_distance=0.1,
            solved_at_start=0,
            success=hit,
            first_success=7 * hit,
            episode_return=3.0 * hit,
            predicted_return=1.0,
            plans=5,
            model_evaluations=9000,
            plan_seconds=0.5,
            plan_cpu_seconds=0.4,
            decision_seconds=decision_seconds,
        )
        for start, hit in enumerate(hits)
    ]
    place = folder / f"seed_{seed}" / planner
    place.mkdir(parents=True)
    write_csv(place / "results.csv", [vars(row) for row in rows])
    settings = {
        "task": task,
        "settings": dict(config.settings(planner)),
        "evaluation": vars(config.evaluation),
    }
    record = {
        "name": f"{stage}/seed_{seed}/{planner}",
        "settings": settings,
        "wall_seconds": 1.0,
        "versions": {},
        "source": {"commit": None, "dirty": None},
        "hardware": {"cpu": "", "cores": 1, "threads": 1, "gpus": [], "system": ""},
    }
    (place / DONE).write_text(json.dumps(record))
