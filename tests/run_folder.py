"""A run's folder as `OnlineTrainer` leaves it, made in a second."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diffplan as dp
from diffplan.training import RunLogger, RunRecord, record_plan, write_video

ITERATIONS = 60


def record_swing_up(planner: dp.Planner) -> dp.training.PlanRecord:
    """Return a plan that swings a pole up, from nearly hanging."""
    angle = torch.tensor(2.84)
    goal = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    problem = dp.PlanningProblem(
        dp.models.analytic.Cartpole(),
        dp.objectives.GoalDistance(goal, running_weight=0.0, terminal_weight=10.0),
        dp.Box([-20.0], [20.0]),
    )
    state = torch.stack(
        [torch.zeros(()), torch.zeros(()), angle.cos(), angle.sin(), torch.zeros(())]
    )

    def decode(states: torch.Tensor) -> torch.Tensor:
        """Draw the pole, white on blue."""
        size = 48
        rows, columns = torch.meshgrid(
            *[torch.linspace(-1, 1, size)] * 2, indexing="ij"
        )
        cart, cos, sin = (states[..., i, None, None] for i in (0, 2, 3))
        across, up = columns - 0.4 * cart, -rows
        along = (across * sin + up * cos).clamp(0, 0.8)
        away = (across - along * sin).square() + (up - along * cos).square()
        bright = torch.exp(-away / 0.006)
        box = ((across.abs() < 0.2) & (rows.abs() < 0.08)).float()
        ground = torch.tensor([0.10, 0.20, 0.34])[:, None, None]
        light = torch.maximum(bright, 0.7 * box).unsqueeze(-3)
        return ground + (1 - ground) * light

    record = record_plan(planner, problem, state, decode=decode)
    # What happens is what was imagined, with a cart that is a little heavier.
    world = dp.models.analytic.Cartpole(cart_mass=1.02)
    happened = world.rollout(state, torch.from_numpy(record.actions[-1]))
    seen = decode(happened).mul(255).round().byte().permute(0, 2, 3, 1)
    return replace(record, happened=happened.numpy(), seen=seen.numpy())


def new_run(temporary: pytest.TempPathFactory) -> Path:
    """Return the folder of a run whose name would be markup; skip without videos."""
    pytest.importorskip("imageio_ffmpeg")
    folder = temporary.mktemp("runs") / "cartpole & <i>"
    write_run(folder)
    return folder


def write_run(folder: Path) -> None:
    """Write metrics, a video and two plans."""
    record = RunRecord(folder, {"task": "<b>cartpole</b>"}, seed=7)
    record.begin(0)
    logger = RunLogger(folder, tensorboard=False)
    for index in range(30):
        metrics = {
            "test/return": 900 * (1 - np.exp(-index / 8)) + 60 * np.sin(index),
            "test/episode_0": 3.0,
            "train/loss": float(np.exp(-index / 5)),
            "train/grad_norm": float("nan") if index == 4 else 2.0 + np.cos(index),
            "time/seconds": 9.0 + index % 3,
        }
        logger.write(index, 500 * (index + 1), metrics)
    logger.close()
    record.end("completed")
    latco = record_swing_up(dp.LatCo(30, iterations=ITERATIONS))
    latco.save(folder / "plans" / "latco_0.npz")
    record_swing_up(dp.ILQR(30, iterations=8)).save(folder / "plans" / "ilqr_0.npz")
    films = [np.concatenate([latco.seen, latco.images[i]], axis=2) for i in (2, 11)]
    for index, film in zip((10, 29), films, strict=True):
        write_video(folder / "videos" / f"round_{index:06d}.mp4", film, fps=10)


def shown(text: str) -> dict[str, Any]:
    """What the page holds."""
    (found,) = re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)
