"""LatCo's experiments; `python -m reproductions.latco --help` explains them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from diffplan.envs._rendering import select_backend
from reproductions.common import online_report
from reproductions.common.experiment import Axis, Experiment, Paper, narrowed
from reproductions.common.units import Unit
from reproductions.latco import (
    ablations_report,
    comparison,
    evaluation,
    evaluation_report,
    figures,
    figures_report,
    images,
    images_report,
    lottery,
    lottery_report,
    online,
    pixels,
    report,
    tasks,
    tasks_report,
)
from reproductions.latco.comparison_config import ComparisonConfig
from reproductions.latco.lottery_config import LotteryConfig
from reproductions.latco.online_config import (
    ALL_TASKS,
    PLANNERS,
    RUNS,
    paper_run,
    small_run,
    smoke_cheetah,
)
from reproductions.latco.pixels import PixelsConfig


def _pixels_units(
    config: PixelsConfig,
    seeds: Sequence[int],  # noqa: ARG001
    directory: Path,
) -> list[Unit]:
    return pixels.units(config, directory)


PAPER = Paper(
    folder=Path(__file__).parent,
    experiments=(
        Experiment(
            name="comparison",
            title="(a) Planners on one frozen model",
            about="planners on one frozen model of sparse Meta-World reach, from state "
            "vectors",
            presets={
                "cpu": partial(narrowed, ComparisonConfig),
                "smoke": partial(narrowed, ComparisonConfig.smoke),
            },
            units=comparison.units,
            report=report.comparison,
            axes={"planner": Axis(ComparisonConfig().planners)},
        ),
        Experiment(
            name="ablations",
            title="(d) Ablations (Table 3)",
            about="LatCo without one part at a time, and more baselines, on the models "
            "of comparison",
            presets={
                "cpu": partial(narrowed, ComparisonConfig.ablations),
                "smoke": partial(narrowed, ComparisonConfig.smoke_ablations),
            },
            units=comparison.ablation_units,
            report=ablations_report.write,
            on_request=("cpu",),
            axes={"planner": Axis(ComparisonConfig.ablations().planners)},
        ),
        Experiment(
            name="online",
            title="(b) Learning online",
            about="LatCo collects its own data on cheetah-run, from state vectors; or "
            "another run, a task with a planner",
            presets={"cpu": small_run, "smoke": smoke_cheetah},
            units=online.units,
            report=report.online,
            on_request=("cpu",),
            axes={"run": Axis(RUNS)},
        ),
        Experiment(
            name=evaluation.EXPERIMENT,
            title="(h) Trained runs with other planner settings (Table 2)",
            about="the model of an online run, planned with as in its training and "
            "with other settings, from the same starts",
            presets={
                "cpu": evaluation.small,
                "smoke": evaluation.smoke,
                "paper": evaluation.paper,
            },
            units=evaluation.units,
            report=evaluation_report.report,
            on_request=("cpu",),
            axes={"run": Axis(RUNS, needed=("paper",))},
        ),
        Experiment(
            name="pixels",
            title="(c) Planned and executed, from images (Fig. 5)",
            about="images: a small visual model, one plan decoded beside what happened",
            presets={"cpu": PixelsConfig, "smoke": PixelsConfig.smoke},
            units=_pixels_units,
            report=report.pixels,
            on_request=("cpu",),
            seeds=(),
        ),
        Experiment(
            name=lottery.EXPERIMENT,
            title="(e) Planning under uncertainty: Lottery (Fig. 7)",
            about="planners on one frozen model of two goals, one of which pays by "
            "chance, from state vectors",
            presets={"cpu": LotteryConfig, "smoke": LotteryConfig.smoke},
            units=lottery.units,
            report=lottery_report.report,
            on_request=("cpu",),
        ),
        Experiment(
            name=figures.EXPERIMENT,
            title="(f) Plans as they improve (Fig. 1, 11), the reward head (Fig. 12)",
            about="plans followed through their iterations and a map of the predicted "
            "reward, with the models of comparison",
            presets={
                "cpu": figures.FiguresConfig,
                "smoke": figures.FiguresConfig.smoke,
            },
            units=figures.units,
            report=figures_report.report,
            on_request=("cpu",),
        ),
        Experiment(
            name=tasks.EXPERIMENT,
            title="(i) Planners on frozen models of the other sparse tasks",
            about="stage comparison on button, window, drawer and push, each with a "
            "model of its own",
            presets={
                "cpu": partial(narrowed, tasks.TasksConfig.small),
                "smoke": partial(narrowed, tasks.TasksConfig.tiny),
            },
            units=tasks.units,
            report=tasks_report.report,
            on_request=("cpu",),
            axes={"task": Axis(tuple(tasks.FAR)), "planner": Axis(tasks.PLANNERS)},
        ),
        Experiment(
            name=images.EXPERIMENT,
            title="(g) Planners on one frozen model, from images",
            about="stage (a) from images: a visual model, trained on one GPU",
            presets={"gpu-short": images.gpu_short, "smoke": images.smoke},
            units=images.units,
            report=images_report.report,
        ),
        Experiment(
            name="paper",
            title="Learning online, from images",
            about="each task with each planner, a run for each seed",
            presets={"paper": paper_run},
            units=online.units,
            report=report.paper,
            axes={
                "task": Axis(ALL_TASKS, needed=("paper",)),
                "planner": Axis(PLANNERS),
            },
        ),
    ),
    columns=online_report.COLUMNS,
    below=report.READING,
    # Tested once; the units' processes inherit the answer.
    prepare=select_backend,
)
