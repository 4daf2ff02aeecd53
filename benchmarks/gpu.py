"""Measure what one GPU does in eight minutes.

    nox -s bench_gpu                  or, on a machine with torch and no network:
    PYTHONPATH=. python benchmarks/gpu.py [--dry] [--minutes 8]

Everything is at the size of the papers: an RSSM of 230 numbers, LatCo with 200
iterations of a horizon of 30, CEM with 100 refits of 10,000 candidates, Grad-MPC with
40 steps of 1,000 candidates, an update on 50 sequences of 50 frames. Nothing is
downloaded. Each section is written to the results file as soon as it ends, so that a
run that is cut keeps what it has; one that would not fit in the minutes left is put
down as left out. `--dry` runs every section at toy size on whatever device there is.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _measuring import settings, write_results
from plan_times import captured, given_noise, reached, synchronize
from torch import Tensor

import diffplan as dp
from diffplan.models import RSSM
from diffplan.models.base import SequenceBatch
from diffplan.objectives import NegativeReturn, SoftplusReward
from diffplan.planners.request import PlanRequest
from diffplan.training import ModelTrainer, OptimizerConfig

ROOT = Path(__file__).parent.parent
ACTIONS = 4
CLOCKS = "name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu"


@dataclass(frozen=True)
class Scale:
    """How large everything is; the defaults are the papers' counts."""

    horizon: int = 30
    latco: int = 200
    cem: tuple[int, int] = (10_000, 100)
    dcem: tuple[int, int] = (1_000, 10)
    grad_mpc: tuple[int, int, int] = (12, 1_000, 40)
    ilqr: tuple[int, ...] = (1, 64, 512, 4_096)
    frames: int = 50
    repeats: int = 3


DRY = Scale(3, 2, (20, 2), (20, 2), (3, 4, 2), (1, 4), 4, 1)


@dataclass
class Machine:
    """The device, the model at the papers' size, and how much is asked of them."""

    device: torch.device
    scale: Scale
    model: RSSM = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        model = RSSM(observation_shape=(3, 64, 64), action_dim=ACTIONS)
        self.model = model.to(self.device).requires_grad_(False)

    def problem(self, *, residual: bool = False) -> dp.PlanningProblem:
        """Return the problem of planning with the model."""
        kind = SoftplusReward if residual else NegativeReturn
        box = dp.Box([-1.0] * ACTIONS, [1.0] * ACTIONS)
        box = box.to(torch.zeros(1, device=self.device))
        return dp.PlanningProblem(self.model.step, kind(self.model.reward), box)

    def state(self, batch: int) -> Tensor:
        """Return planning states `[batch, S]`."""
        return self.model.initial_state((batch,)).contiguous()


def timed(machine: Machine, prepare: Callable[[], Callable[[], object]]) -> Any:
    """Return seconds and memory of a call, or the error that it ends in."""
    device = machine.device
    try:
        started = time.perf_counter()
        run = prepare()
        run()
        synchronize(device)
        first = time.perf_counter() - started
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = []
        for _ in range(machine.scale.repeats):
            started = time.perf_counter()
            run()
            synchronize(device)
            seconds.append(time.perf_counter() - started)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    found: dict[str, Any] = {
        "median_seconds": statistics.median(seconds),
        "seconds": seconds,
    }
    if device.type == "cuda":
        found["peak_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return {**found, "first_seconds": first}


def plan_of(
    planner: dp.Planner, problem: dp.PlanningProblem, state: Tensor
) -> Callable[[], object]:
    """Return the core of a plan, without graph and with noise that lies ready."""
    noise = given_noise(planner, problem, state)

    def run() -> object:
        with torch.no_grad():
            return planner.plan_for(PlanRequest(problem, state, noise, evaluate=False))

    return run


def in_modes(
    machine: Machine,
    planner: dp.Planner,
    problem: dp.PlanningProblem,
    state: Tensor,
    *modes: str,
) -> dict[str, Any]:
    """Time a plan eagerly, as one CUDA graph, or with a compiled rollout."""
    found = {}
    for mode in modes:
        if mode == "graph" and machine.device.type != "cuda":
            found[mode] = {"error": "needs CUDA"}
            continue

        def prepare(mode: str = mode) -> Callable[[], object]:
            if mode == "compiled problem":
                problem.compile()
            run = plan_of(planner, problem, state)
            return captured(run) if mode == "graph" else run

        found[mode] = timed(machine, prepare)
        print(f"    {mode}: {brief(found[mode])}", flush=True)
    return found


def brief(found: dict[str, Any]) -> str:
    """Return one entry in a few words."""
    return found.get("error") or f"{found['median_seconds']:.4f} s"


def latco(machine: Machine) -> dict[str, Any]:
    """Time LatCo's plan at batch 1 and 64, each form of its linear algebra."""
    scale, problem = machine.scale, machine.problem(residual=True)
    found = {}
    for batch in (1, 64):
        for name, arguments in {
            "riccati": {},
            "block_cholesky": {"solver": dp.solvers.BlockCholeskySolver()},
        }.items():
            planner = dp.LatCo(
                scale.horizon, iterations=scale.latco, gradient=dp.Detach(), **arguments
            )
            modes = ("graph",) if batch > 1 else ("eager", "graph")
            print(f"  batch {batch}, {name}")
            found[f"batch={batch}, {name}"] = in_modes(
                machine, planner, problem, machine.state(batch), *modes
            )
    return found


def cem(machine: Machine) -> dict[str, Any]:
    """Time CEM's plan with the paper's 100 refits of 10,000 candidates."""
    samples, iterations = machine.scale.cem
    planner = dp.CEM(
        machine.scale.horizon,
        num_samples=samples,
        num_elites=samples // 20,
        iterations=iterations,
    )
    modes = ("eager", "graph", "compiled problem")
    state = machine.state(1)
    return in_modes(machine, planner, machine.problem(), state, *modes)


def grad_mpc(machine: Machine) -> dict[str, Any]:
    """Time Grad-MPC's plan with the paper's 1,000 candidates and 40 steps."""
    horizon, candidates, iterations = machine.scale.grad_mpc
    planner = dp.GradMPC(
        horizon,
        num_starts=candidates,
        iterations=iterations,
        gradient=dp.Detach(),
    )
    state = machine.state(1)
    return in_modes(machine, planner, machine.problem(), state, "eager", "graph")


def dcem(machine: Machine) -> dict[str, Any]:
    """Time DCEM's plan, and a plan with the gradient to its temperature."""
    samples, iterations = machine.scale.dcem
    temperature = torch.nn.Parameter(torch.ones((), device=machine.device))
    planner = dp.DCEM(
        12,
        num_samples=samples,
        num_elites=samples // 10,
        iterations=iterations,
        temperature=temperature,
    ).to(machine.device)
    problem, state = machine.problem(), machine.state(1)
    found = in_modes(machine, planner, problem, state, "eager", "graph")

    def with_gradient() -> object:
        actions = planner(problem, state, evaluate=False).actions
        return torch.autograd.grad(actions.square().sum(), temperature)

    found["with gradient"] = timed(machine, lambda: with_gradient)
    return found


def ilqr(machine: Machine) -> dict[str, Any]:
    """Time ten iterations of iLQR on pendulums of rising batch, with and without graph.

    The sweep is sequential over 20 steps: what is read off is how much of a batch
    rides along for nothing.
    """
    device = machine.device
    pendulum = dp.models.Pendulum()
    goal = dp.objectives.GoalDistance(torch.zeros(2, device=device))
    cost = dp.objectives.SumOfResiduals([goal, dp.objectives.ActionPenalty(0.1)])
    box = dp.Box([-2.0], [2.0]).to(torch.zeros(1, device=device))
    problem = dp.PlanningProblem(pendulum.to(device), cost, box)
    planner = dp.ILQR(20, iterations=10, gradient=dp.Detach())
    found = {}
    for batch in machine.scale.ilqr:
        state = torch.linspace(-1.0, 1.0, 2 * batch, device=device).view(batch, 2)
        print(f"  batch {batch}")
        found[f"batch={batch}"] = in_modes(
            machine, planner, problem, state, "eager", "graph"
        )
    return found


def rssm(machine: Machine) -> dict[str, Any]:
    """Time an update of the RSSM on sequences of frames, in each precision."""
    count, device = machine.scale.frames, machine.device
    frames = torch.randint(
        256, (count, count + 1, 3, 64, 64), dtype=torch.uint8, device=device
    )
    actions = torch.zeros(count, count, ACTIONS, device=device)
    rewards = torch.zeros(count, count, device=device)
    batch = SequenceBatch(frames, actions, rewards)
    found = {}
    for precision in ("float32", "tf32", "bfloat16"):
        model = RSSM(observation_shape=(3, 64, 64), action_dim=ACTIONS).to(device)
        trainer = ModelTrainer(model, OptimizerConfig(precision=precision))
        generator = torch.Generator(device).manual_seed(0)
        found[precision] = timed(
            machine, lambda t=trainer, g=generator: lambda: t.train_step(batch, g)
        )
        print(f"    {precision}: {brief(found[precision])}", flush=True)
    return found


def synchronisation(machine: Machine) -> dict[str, Any]:
    """Ask CUDA to raise where a planner waits for its device."""
    quiet = {"gradient": dp.Detach()}
    planners = {
        "CEM": dp.CEM(5, num_samples=32, num_elites=4, iterations=2),
        "DCEM": dp.DCEM(5, num_samples=32, num_elites=4, iterations=2),
        "MPPI": dp.MPPI(5, num_samples=32, iterations=2),
        "GradMPC": dp.GradMPC(5, num_starts=4, iterations=2),
        "ShootingGD": dp.ShootingGD(5, iterations=2),
        "LatCo": dp.LatCo(5, iterations=2, **quiet),
        "ShootingGN": dp.ShootingGN(5, iterations=2, **quiet),
        "ILQR": dp.ILQR(5, iterations=2, **quiet),
    }
    found: dict[str, Any] = {}
    for name, planner in planners.items():
        residual = name in ("LatCo", "ShootingGN")
        run = plan_of(planner, machine.problem(residual=residual), machine.state(2))
        try:
            run()
            if machine.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("error")
            run()
            found[name] = "never waits"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {str(error)[:200]}"
        finally:
            if machine.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        print(f"    {name}: {found[name]}", flush=True)
    return found


def marked_tests(machine: Machine) -> dict[str, Any]:
    """Run the tests marked `gpu` that need no simulator, in a process of their own."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/planners",
        "tests/functional",
        "-m",
        "gpu",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    if machine.device.type != "cuda":
        command.append("--collect-only")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = (done.stdout + done.stderr).strip().splitlines()
    print("\n".join(lines[-15:]), flush=True)
    return {"exit_status": done.returncode, "last_lines": lines[-15:]}


def speeds(machine: Machine) -> dict[str, Any]:
    """Measure what a large product of matrices and a large copy reach here."""
    return reached(machine.device, repeats=5)


SECTIONS: dict[str, tuple[Callable[[Machine], dict[str, Any]], float]] = {
    "speeds": (speeds, 10),
    "synchronisation": (synchronisation, 20),
    "rssm": (rssm, 20),
    "ilqr": (ilqr, 20),
    "grad_mpc": (grad_mpc, 20),
    "dcem": (dcem, 20),
    "tests": (marked_tests, 60),
    "latco": (latco, 100),
    "cem": (cem, 60),
}
"""Each section, and the seconds that it may take on a GPU of 2023."""


def card(device: torch.device) -> dict[str, Any]:
    """Return what the driver tells of the card: name, driver, clocks, power."""
    if device.type != "cuda" or shutil.which("nvidia-smi") is None:
        return {}
    query = ["nvidia-smi", f"--query-gpu={CLOCKS}", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return dict(zip(CLOCKS.split(","), told.split(", "), strict=False))


def main() -> None:
    """Run the sections that fit, and write the results after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="toy sizes, any device")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=[*SECTIONS])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument(
        "--commit", help="of these sources, where they came without their repository"
    )
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not arguments.dry:
        parser.error("no CUDA device is found: --dry runs everything at toy size")
    started = time.perf_counter()
    machine = Machine(device, DRY if arguments.dry else Scale())
    results: dict[str, Any] = {"card": card(device), "sections": {}}
    name = "gpu_dry.json" if arguments.dry else "gpu.json"
    for section in arguments.sections:
        run, estimate = SECTIONS[section]
        begun = time.perf_counter()
        left = 60 * arguments.minutes - (begun - started)
        if left < estimate and not arguments.dry:
            found: dict[str, Any] = {"left_out": f"{left:.0f} s were left"}
        else:
            print(f"{section} ({left:.0f} s left)", flush=True)
            found = run(machine)
            seconds = time.perf_counter() - begun
            found |= {"_seconds": seconds, "_card": card(device)}
        results["sections"][section] = found
        path, config = arguments.output / name, settings(arguments)
        write_results(path, config, results, arguments.commit)


if __name__ == "__main__":
    main()
