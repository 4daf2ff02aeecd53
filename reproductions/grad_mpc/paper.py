"""Grad-MPC's experiments; `python -m reproductions.grad_mpc --help` explains them."""

from functools import partial
from pathlib import Path

from diffplan.envs._rendering import select_backend
from reproductions.common import online_report
from reproductions.common.experiment import Axis, Experiment, Paper, narrowed
from reproductions.grad_mpc import (
    claims,
    dreamer_settings,
    frozen,
    online,
    report,
    settings,
)

OF_DREAMER = {
    "cpu": partial(narrowed, dreamer_settings.small),
    "smoke": partial(narrowed, dreamer_settings.tiny),
    "paper": partial(narrowed, dreamer_settings.paper),
}
"""Presets of the runs, and of what refines their policies."""
DREAMER_TASKS = Axis((*settings.TASKS, *settings.SPARSE))

PAPER = Paper(
    folder=Path(__file__).parent,
    experiments=(
        Experiment(
            name="planet",
            title="PlaNet's agent with Grad-MPC and with CEM (Table 1, Fig. 3)",
            about="an agent collects with the planner that it is tested with",
            presets={
                "cpu": partial(narrowed, settings.small),
                "smoke": partial(narrowed, settings.tiny),
                "gpu-short": partial(narrowed, settings.gpu_short),
                "paper": partial(narrowed, settings.paper),
            },
            units=partial(online.units, "planet"),
            report=report.planet,
            axes={
                "task": Axis(settings.TASKS),
                "planner": Axis(settings.PLANNERS),
            },
        ),
        Experiment(
            name="pixels",
            title="The same from images, at small size",
            about="one task from images, with a small image network",
            presets={"cpu": settings.small_pixels},
            units=partial(online.units, "pixels"),
            report=report.pixels,
            on_request=("cpu",),
        ),
        Experiment(
            name="candidates",
            title="Return against the number of candidates (Fig. 4)",
            about="planners on the frozen models of stage planet",
            presets={
                "cpu": frozen.small_candidates,
                "smoke": frozen.tiny_candidates,
                "paper": frozen.CandidatesConfig,
            },
            units=partial(frozen.planet_units, "candidates"),
            report=report.candidates,
            on_request=("cpu",),
        ),
        Experiment(
            name="sweep",
            title="What the paper leaves open",
            about="optimiser, step size and clipping of Grad-MPC, on frozen models",
            presets={
                "cpu": frozen.small_sweep,
                "smoke": frozen.tiny_sweep,
                "paper": frozen.SweepConfig,
            },
            units=partial(frozen.planet_units, "sweep"),
            report=report.sweep,
            on_request=("cpu",),
        ),
        Experiment(
            name="dreamer",
            title="Dreamer, whose policy is refined below",
            about="Dreamer's agent learns online",
            presets=OF_DREAMER,
            units=frozen.dreamer_units,
            report=report.dreamer,
            on_request=("cpu",),
            axes={"task": DREAMER_TASKS},
        ),
        Experiment(
            name="refinement",
            title="Dreamer's policy, refined by Grad-MPC (Table 2)",
            about="the policies of stage dreamer act, alone and refined",
            presets=OF_DREAMER,
            units=frozen.refinement_units,
            report=report.refinement,
            on_request=("cpu",),
            axes={"task": DREAMER_TASKS},
        ),
    ),
    columns=online_report.COLUMNS,
    below=report.READING,
    claims=claims.write,
    stages_needed=("paper",),
    # Tested once; the units' processes inherit the answer.
    prepare=select_backend,
)
