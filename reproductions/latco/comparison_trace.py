"""How LatCo's first plans of stage (a) improve, iteration by iteration (Fig. 6)."""

from pathlib import Path

import torch
from torch import Tensor

from diffplan._runs.online import resolve_device
from diffplan._runs.settings import Settings
from diffplan._runs.tables import write_csv
from diffplan.models.rssm import RSSM
from diffplan.objectives.reward import SoftplusReward
from reproductions.latco.comparison_config import (
    STATE_VECTORS,
    EvaluationConfig,
    Setup,
)
from reproductions.latco.iterates import first_plans


@torch.no_grad()
def trace(
    directory: Path,
    model_path: Path,
    task: str,
    settings: Settings,
    evaluation: EvaluationConfig,
    seed: int,
    setup: Setup = STATE_VECTORS,
) -> None:
    """Follow LatCo's first plans through their iterations; write `trace.csv`.

    Per iteration: the predicted rewards of the planned states (sum over
    the horizon) and the dynamics violation (mean over the steps of ‖x - f(x, u)‖²),
    each as mean, minimum and maximum over the starts.
    """
    device = resolve_device(setup.device)
    model = RSSM.load(model_path).eval().to(device)
    planner = settings.build(evaluation.horizon)
    objective = SoftplusReward(model.reward)
    given = (model, planner, objective, task, evaluation, seed)
    states, plan, _ = first_plans(*given, **setup.seen)
    reward = model.reward(states[:, 1:, 1:]).sum(dim=-1)
    kept = plan.diagnostics
    columns: dict[str, Tensor] = {}
    for name, values in (
        ("predicted_return", reward),
        ("dynamics_violation", kept["dynamics_violation"]),
        ("action_violation", kept["action_violation"]),
        ("dynamics_multiplier", kept["dynamics_multiplier"]),
    ):
        columns[f"{name}_mean"] = values.mean(dim=0)
        columns[f"{name}_low"] = values.amin(dim=0)
        columns[f"{name}_high"] = values.amax(dim=0)
    rows = [
        {"seed": seed, "iteration": index + 1}
        | {name: float(values[index]) for name, values in columns.items()}
        for index in range(reward.shape[1])
    ]
    write_csv(directory / "trace.csv", rows)
