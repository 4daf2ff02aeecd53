"""Planners in a control loop of 50 Hz, beside the libraries that people use for that.

    python benchmarks/control_loop.py [--environments .nox/peers] [--peers acados jax …]
                                      [--tasks pendulum cartpole point_mass]
                                      [--starts 3] [--steps 200] [--quick]

A pendulum and a cartpole are swung up and a point mass is driven home: diffplan's own
analytic models, with limits on the action, a look ahead of one second, and the plan
before, shifted by a step, as the start of the next. Every library has an environment
and a process of its own, on one thread; all contenders of a task take turns, step by
step, each in a loop of its own. The plant is simulated here, and the cost of what
happened is counted here, for all alike. The peers' equations are written anew
(`peers/_loop.py`), so each is first compared with diffplan's model.

The latency is that of a whole call, from the numbers of a state to those of an action,
by the clock and of the processor: other programs lengthen the first, above all its
99th percentile. Setting up, compiling and the first three calls stand apart.
"""

import math
import statistics
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from _measuring import Parser, positive, settings, write_results
from _workers import ENVIRONMENTS, Worker, interpreter
from torch import Tensor

sys.path.append(str(Path(__file__).parent / "peers"))
from _loop import Task
from _tensors import FLOAT
from loop_ours import plant

TIME_STEP = 0.02
HORIZON = 50
SAME_MODEL = 1e-9
"""How far a contender's next state may be from diffplan's."""
CLOCKS = ("seconds", "processor_seconds")


def tasks() -> dict[str, Task]:
    """Return the tasks; all start at rest, the swing-ups near hanging."""
    angles = (math.pi, 2.9, -3.0)
    poles = (3.1, -2.9, 2.5)
    return {
        "pendulum": Task(
            plant="pendulum",
            constants={"time_step": TIME_STEP, "gravity": 10.0},
            horizon=HORIZON,
            goal=[0.0, 0.0],
            weight=[1.0, 0.1],
            effort=0.01,
            terminal=10.0,
            limit=4.0,
            width=1,
            starts=[[angle, 0.0] for angle in angles],
        ),
        "cartpole": Task(
            plant="cartpole",
            constants={
                "time_step": TIME_STEP,
                "gravity": 9.8,
                "cart_mass": 1.0,
                "pole_mass": 0.1,
                "half_length": 0.5,
            },
            horizon=HORIZON,
            goal=[0.0, 0.0, 1.0, 0.0, 0.0],
            weight=[0.5, 0.05, 1.0, 1.0, 0.05],
            effort=0.005,
            terminal=30.0,
            limit=10.0,
            width=1,
            starts=[[0.0, 0.0, math.cos(a), math.sin(a), 0.0] for a in poles],
        ),
        "point_mass": Task(
            plant="point_mass",
            constants={"time_step": TIME_STEP},
            horizon=HORIZON,
            goal=[0.0] * 4,
            weight=[1.0, 1.0, 0.1, 0.1],
            effort=0.1,
            terminal=10.0,
            limit=1.0,
            width=2,
            starts=[
                [1.0, -0.5, 0.0, 0.5],
                [-1.5, 1.0, 0.5, 0.0],
                [0.5, 0.5, -1.0, 1.0],
            ],
        ),
    }


@dataclass(frozen=True)
class Contender:
    """One way to control a plant.

    Attributes:
        library: The worker `peers/loop_<library>.py`, and the environment.
        settings: What that worker builds it from.
    """

    library: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the table calls it."""
        told = dict(self.settings)
        first = told.pop("planner", self.library)
        words = [
            f"{key} {value}" if not isinstance(value, bool) else key
            for key, value in told.items()
        ]
        return ", ".join([first, *words])


def ours(planner: str, **options: Any) -> Contender:
    """Return a planner of diffplan with these arguments."""
    return Contender("ours", {"planner": planner, **options})


CONTENDERS = (
    ours("ILQR", iterations=1, form="condensed"),
    ours("ILQR", iterations=1, form="condensed", compiled=True),
    ours("ILQR", iterations=1, form="condensed", exported=True),
    ours("ILQR", iterations=1, form="sweep"),
    ours("ILQR", iterations=3, form="condensed"),
    ours("ShootingGN", iterations=1, form="condensed"),
    ours("ShootingGN", iterations=3, form="condensed"),
    ours("LatCo", iterations=10),
    ours("MPPI", num_samples=256, iterations=1, initial_std=2.0, fixed_std=True),
    ours("CEM", num_samples=128, num_elites=12, iterations=3, initial_std=2.0),
    ours("GradMPC", num_starts=4, iterations=3, step_size=0.3, optimizer="adam"),
    ours("ShootingGD", iterations=3, step_size=0.3),
    Contender("acados", {"nlp_solver_type": "SQP_RTI"}),
    Contender("acados", {"nlp_solver_type": "SQP"}),
    Contender("casadi", {"solver": "ipopt", "iterations": 50}),
    Contender("casadi", {"solver": "fatrop", "iterations": 50}),
    Contender("mpc", {"iterations": 1}),
    Contender("mppi", {"samples": 256, "std": 2.0, "temperature": 0.1}),
    Contender("cvxpylayers"),
    Contender("jax", {"method": "lbfgsb", "iterations": 10}),
    Contender("jax", {"method": "levenberg_marquardt", "iterations": 5}),
)


class Loop:
    """A contender's loop: its plant, and what controlling it cost and took.

    Args:
        contender: Who controls.
        task: What for.
        worker: Its process.
    """

    def __init__(self, contender: Contender, task: Task, worker: Worker) -> None:
        self.contender, self.task, self.worker = contender, task, worker
        self.key = f"{task.plant}: {contender.name}"
        self.record: dict[str, Any] = {"contender": asdict(contender)}
        self.record |= {"name": contender.name, "costs": []}
        self.record |= {clock: [] for clock in CLOCKS}
        self.model = plant(task)
        self.weight, self.goal = map(numbers, (task.weight, task.goal))
        self.state, self.cost = numbers(task.starts[0]), 0.0

    def prepare(self) -> None:
        """Set the contender up, and see that it knows the plant.

        Raises:
            RuntimeError: the worker failed, or has another model.
        """
        answer = self.worker.ask(
            prepare=self.key, task=asdict(self.task), settings=self.contender.settings
        )
        self.record |= answer
        generator = torch.Generator().manual_seed(0)
        for start in self.task.starts:
            push = torch.rand(self.task.width, generator=generator, dtype=FLOAT)
            given = {"state": start, "action": push.tolist()}
            theirs = numbers(self.worker.ask(model=self.key, **given)["state"])
            error = (theirs - self.model(numbers(start), push)).abs().max().item()
            if error > SAME_MODEL:
                raise RuntimeError(f"has another model: differs by {error:.1e}")

    def begin(self, start: list[float]) -> None:
        """Put the plant there, and let the contender forget its plan."""
        self.worker.ask(reset=self.key)
        self.state, self.cost = numbers(start), 0.0

    def step(self) -> None:
        """Let the contender act once."""
        answer = self.worker.ask(act=self.key, state=self.state.tolist())
        for clock in CLOCKS:
            self.record[clock].append(answer[clock])
        limit = self.task.limit
        action = numbers(answer["action"]).clamp(-limit, limit)
        effort = 0.5 * self.task.effort * action.square().sum().item()
        self.cost += self.distance() + effort
        self.state = self.model(self.state, action)

    def end(self) -> None:
        """Note what the loop cost."""
        self.record["costs"].append(self.cost + self.distance())

    def distance(self) -> float:
        """Return the cost of the state."""
        return 0.5 * (self.weight * (self.state - self.goal).square()).sum().item()

    def summary(self) -> dict[str, Any]:
        """Return the record with percentiles, in milliseconds, for its times."""
        found = {k: v for k, v in self.record.items() if k not in CLOCKS}
        if "error" in found:
            return found
        for clock in CLOCKS:
            times = 1e3 * numbers(self.record[clock])
            found[f"{clock[:-7]}ms"] = {
                "p50": times.quantile(0.5).item(),
                "p99": times.quantile(0.99).item(),
                "most": times.max().item(),
            }
        found["mean_cost"] = statistics.fmean(found["costs"])
        return found


def numbers(values: list[float] | float) -> Tensor:
    """Return a tensor of double precision."""
    return torch.tensor(values, dtype=FLOAT)


def run(
    task: Task, workers: dict[str, Worker], starts: int, steps: int
) -> list[dict[str, Any]]:
    """Let all contenders control one plant, in turn, and return their records."""
    loops = [
        Loop(contender, task, workers[contender.library])
        for contender in CONTENDERS
        if contender.library in workers
        and (task.plant == "point_mass" or contender.library != "cvxpylayers")
    ]
    every = list(loops)

    def alive(action: Any) -> None:
        """Do something with each loop; one that fails leaves, with its error."""
        for loop in list(loops):
            try:
                action(loop)
            except RuntimeError as error:
                loop.record["error"] = str(error)
                loops.remove(loop)

    alive(Loop.prepare)
    for start in task.starts[:starts]:
        alive(lambda loop, start=start: loop.begin(start))
        for _ in range(steps):
            alive(Loop.step)
        alive(Loop.end)
    return [loop.summary() for loop in every]


def row(task: str, record: dict[str, Any]) -> str:
    """Return one line of the table."""
    if "error" in record:
        return f"| {task} | {record['name']} | failed: {record['error']} | | | |"
    processor, clock = record["processor_ms"], record["ms"]
    return (
        f"| {task} | {record['name']} | {processor['p50']:.2f} / {processor['p99']:.2f}"
        f" | {clock['p50']:.2f} / {clock['p99']:.2f} | {record['mean_cost']:.2f} "
        f"| {record['first_seconds']:.2f} |"
    )


def started(libraries: list[str], environments: Path) -> tuple[dict, dict]:
    """Start a worker for each library; return them, and versions or errors."""
    workers, versions = {}, {}
    for name in libraries:
        own = name == "ours"
        try:
            python = sys.executable if own else interpreter(environments, name)
            worker = Worker(python, f"loop_{name}")
            versions[name] = worker.ask(versions=[])
        except RuntimeError as error:
            versions[name] = {"error": str(error)}
            continue
        workers[name] = worker
    return workers, versions


def main() -> None:
    """Measure, print a table, and write the results file."""
    parser = Parser(__doc__, quick="ten steps of one start")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    libraries = list(dict.fromkeys(each.library for each in CONTENDERS))
    peers = libraries[1:]  # after ours
    parser.add_argument("--peers", nargs="*", choices=peers, help="only these")
    parser.add_argument("--tasks", nargs="+", default=[*tasks()], choices=tasks())
    parser.add_argument("--starts", type=int, default=3, choices=(1, 2, 3))
    parser.add_argument("--steps", type=positive, default=200)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.starts, arguments.steps = 1, 10
    torch.set_num_threads(1)
    if arguments.peers is not None:
        libraries = ["ours", *arguments.peers]
    workers, versions = started(libraries, arguments.environments)
    found: dict[str, Any] = {}
    print("| task | contender | processor, ms, p50 / p99 | ms | cost | first, s |")
    print("|---|---|---|---|---|---|")
    for name in arguments.tasks:
        records = run(tasks()[name], workers, arguments.starts, arguments.steps)
        found[name] = {"task": asdict(tasks()[name]), "contenders": records}
        print("\n".join(row(name, record) for record in records), flush=True)
    for worker in workers.values():
        worker.close()
    write_results(
        arguments.output / "control_loop.json",
        config=settings(arguments),
        results={"versions": versions, "tasks": found},
    )


if __name__ == "__main__":
    main()
