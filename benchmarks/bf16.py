"""Rollouts in bfloat16: are the plans the same, and what is gained?

    python benchmarks/bf16.py [--updates 400] [--problems 16] [--repeats 3] [--quick]

An RSSM of the paper's size learns a point mass from random actions. Then each planner
plans twice from the same states with the same noise: with the model in float32, and
with its transition and reward under `torch.autocast(bfloat16)`. Both plans are judged
by the float32 model. States, refits, projections and all linear algebra are float32 in
both. The difference is measured against what planning gains over doing nothing.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from _measuring import Parser, positive, settings, write_results
from torch import Tensor

import diffplan as dp
from diffplan.models import RSSM
from diffplan.models.analytic import PointMass
from diffplan.models.base import SequenceBatch
from diffplan.objectives import NegativeReturn

ACTIONS = 2
GOAL = torch.tensor([0.5, -0.5])
LENGTH = 20


def episodes(count: int, generator: torch.Generator) -> SequenceBatch:
    """Return sequences of a point mass under random pushes that last a while."""
    system = PointMass(ACTIONS, time_step=0.2)
    state = 2 * torch.rand(count, 4, generator=generator) - 1
    push = torch.zeros(count, ACTIONS)
    states, actions = [state], []
    for _ in range(LENGTH):
        drawn = torch.randn(count, ACTIONS, generator=generator)
        push = (0.7 * push + 0.7 * drawn).clamp(-1, 1)
        state = system(state, push)
        states.append(state)
        actions.append(push)
    observations = torch.stack(states, dim=1)
    distance = (observations[:, 1:, :ACTIONS] - GOAL).square().sum(dim=-1)
    return SequenceBatch(observations, torch.stack(actions, dim=1), -distance)


def train(model: RSSM, updates: int, generator: torch.Generator) -> float:
    """Fit the model; return the last loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-4)
    for _ in range(updates):
        record = model.loss(episodes(16, generator), generator)
        optimizer.zero_grad()
        record.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
    return record.total.item()


def in_bfloat16(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function that computes under autocast and answers in float32."""

    def run(*inputs: Tensor) -> Tensor:
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            return function(*inputs).float()

    return run


def problems(model: RSSM) -> dict[str, dp.PlanningProblem]:
    """Return the same problem in both precisions."""
    box = dp.Box([-1.0] * ACTIONS, [1.0] * ACTIONS)
    return {
        "float32": dp.PlanningProblem(model.step, NegativeReturn(model.reward), box),
        "bfloat16": dp.PlanningProblem(
            in_bfloat16(model.step), NegativeReturn(in_bfloat16(model.reward)), box
        ),
    }


def planners(horizon: int, samples: int) -> dict[str, dp.Planner]:
    """Return what is compared."""
    common = {"num_samples": samples, "iterations": 5}
    return {
        "CEM": dp.CEM(horizon, num_elites=samples // 10, **common),
        "DCEM": dp.DCEM(horizon, num_elites=samples // 10, **common),
        "MPPI": dp.MPPI(horizon, temperature=0.1, **common),
    }


def compare(
    planner: dp.Planner,
    both: dict[str, dp.PlanningProblem],
    state: Tensor,
    repeats: int,
) -> dict[str, Any]:
    """Return costs by the float32 model, the plans' distance, and seconds."""
    judge, seconds = both["float32"], {name: [] for name in both}
    plans = {}
    with torch.no_grad():
        for _ in range(repeats):
            for name, problem in both.items():
                started = time.perf_counter()
                plans[name] = planner(problem, state)
                seconds[name].append(time.perf_counter() - started)
        cost = {n: judge.cost(state, plan.actions) for n, plan in plans.items()}
        idle = judge.cost(state, torch.zeros_like(plans["float32"].actions))
    gain = idle - cost["float32"]
    lost = (cost["bfloat16"] - cost["float32"]) / gain
    apart = plans["bfloat16"].actions - plans["float32"].actions
    return {
        "cost_float32": cost["float32"].mean().item(),
        "cost_bfloat16": cost["bfloat16"].mean().item(),
        "cost_of_no_action": idle.mean().item(),
        "share_of_gain_lost_mean": lost.mean().item(),
        "share_of_gain_lost_worst": lost.max().item(),
        "action_rms_difference": apart.square().mean().sqrt().item(),
        "median_seconds": {n: statistics.median(s) for n, s in seconds.items()},
    }


def gradient_error(
    planner: dp.Planner, both: dict[str, dp.PlanningProblem], state: Tensor
) -> float | None:
    """Return ‖difference‖ / ‖gradient‖ of d ‖actions‖² / d state, if there is one."""
    if isinstance(planner.gradient, dp.Detach):
        return None
    found = {}
    for name, problem in both.items():
        leaf = state.clone().requires_grad_()
        loss = planner(problem, leaf).actions.square().sum()
        (found[name],) = torch.autograd.grad(loss, leaf)
    difference = (found["bfloat16"] - found["float32"]).norm()
    return (difference / found["float32"].norm()).item()


def main() -> None:
    """Train, measure, print a table, and write the results file."""
    parser = Parser(__doc__, quick="a small, rough run")
    parser.add_argument("--updates", type=positive, default=400)
    parser.add_argument("--problems", type=positive, default=16)
    parser.add_argument("--samples", type=positive, default=500)
    parser.add_argument("--horizon", type=positive, default=12)
    parser.add_argument("--repeats", type=positive, default=3)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.updates, arguments.problems, arguments.samples = 60, 4, 100
        arguments.repeats = 1
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    # Free nats of 1, the default, would leave so small a task unlearnt.
    model = RSSM(observation_shape=(4,), action_dim=ACTIONS, free_nats=0.3)
    loss = train(model, arguments.updates, generator)
    model.requires_grad_(False)
    batch = episodes(arguments.problems, generator)
    state = model.initial_state((arguments.problems,))
    for step in range(5):  # the model has seen a few observations
        action = batch.actions[:, step - 1] if step else torch.zeros_like(GOAL)
        action = action.expand(arguments.problems, -1)
        state = model.observe(state, action, batch.observations[:, step])
    both, results = problems(model), {"training_loss": loss}
    print("| planner | lost, mean | lost, worst | actions rms | gradient | speed-up |")
    print("|---|---|---|---|---|---|")
    for name, planner in planners(arguments.horizon, arguments.samples).items():
        found = compare(planner, both, state, arguments.repeats)
        found["gradient_error"] = gradient_error(planner, both, state[:2])
        results[name] = found
        seconds = found["median_seconds"]
        error = found["gradient_error"]
        print(
            f"| {name} | {found['share_of_gain_lost_mean']:.2%} "
            f"| {found['share_of_gain_lost_worst']:.2%} "
            f"| {found['action_rms_difference']:.3f} "
            f"| {'-' if error is None else f'{error:.2%}'} "
            f"| {seconds['float32'] / seconds['bfloat16']:.2f} |",
            flush=True,
        )
    write_results(
        arguments.output / "bf16.json",
        config=settings(arguments),
        results=results,
    )


if __name__ == "__main__":
    main()
