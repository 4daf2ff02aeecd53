"""Plans from the start of an episode with a trained model, and keeps every iteration.

The plan goes to RUN/plans, with what happened when it was executed open loop;
`diffplan view RUN` shows it. Behind RUN stand other settings of planning, KEY=VALUE,
such as planner=latco or horizon=20.
"""

import argparse
import shlex
from pathlib import Path

from diffplan._cli import DONE, say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a folder of `diffplan train`")
    add(
        "words", nargs="*", default=(), metavar="KEY=VALUE", help="settings of planning"
    )
    add("--seed", type=int, default=0, help="of the episode; 0")
    add("--name", help="of the file; PLANNER_SEED otherwise")


def run(options: argparse.Namespace) -> int:
    """Plan, act and write; return the exit status."""
    from diffplan._checks import require_count
    from diffplan._runs.folder import load_run
    from diffplan.errors import ArgumentError
    from diffplan.training import record_agent_plan

    require_count("--seed", options.seed, 0)
    loaded = load_run(options.run, options.words)
    planner = type(loaded.agent.planner).__name__.lower()
    name = options.name or f"{planner}_{options.seed}"
    if Path(name).name != name or name.startswith("."):
        raise ArgumentError(f"--name: expected the name of a file, got {name!r}")
    with loaded.environments(1) as environments:
        record = record_agent_plan(loaded.agent, environments, seed=options.seed)
    path = options.run / "plans" / f"{name}.npz"
    record.save(path)
    first, last = record.cost[0], record.cost[-1]
    say(f"{path}: cost {first:.4g} at first, {last:.4g} of the answer; it was executed")
    say(f"diffplan view {shlex.quote(str(options.run))}  # shows it")
    return DONE
