"""DCEM's experiments; `python -m reproductions.dcem --help` explains them."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from reproductions.common.experiment import Experiment, Paper, Results, Section
from reproductions.common.provenance import Records
from reproductions.dcem import (
    cartpole,
    cartpole_report,
    locomotion,
    locomotion_presets,
    locomotion_report,
    regression,
    regression_report,
    verdict,
)
from reproductions.dcem.cartpole_config import CartpoleConfig
from reproductions.dcem.locomotion_config import LocomotionConfig
from reproductions.dcem.regression_config import RegressionConfig

SEEDS = (0, 1, 2)
READING = """\
"Ours" is a mean over training seeds with Student's 95 % interval. The paper's numbers
were read off its figures; what they mean stands in `reproductions/dcem/paper.toml`.
Deviations are numbered in `reproductions/dcem/README.md`. A source is the commit that a
unit was run from; a star marks one with changed files that no commit holds.
"""


def _report(
    write: Callable[[Path, Path, Records], str],
    claims: Callable[[Results], Iterable[Sequence[str]]],
    results: Results,
) -> Section | None:
    text = write(results.runs, results.output, results.records)
    return Section(text, list(claims(results))) if text else None


PAPER = Paper(
    folder=Path(__file__).parent,
    experiments=(
        Experiment(
            name="regression",
            title="(a) Regression through an energy",
            about="an energy trained through its minimisation, by unrolled gradient "
            "descent and by DCEM: the paper's protocol in full",
            presets={
                "cpu": RegressionConfig,
                "smoke": RegressionConfig.smoke,
                "paper": RegressionConfig,
            },
            units=regression.units,
            report=partial(_report, regression_report.write, verdict.regression),
            seeds=SEEDS,
        ),
        Experiment(
            name="cartpole",
            title="(b) Cartpole with a learned embedding of actions",
            about="the expert in full; of the learned embeddings preset cpu has a "
            "share: latent sizes 2 and 8 at temperature 1, a fifth of the updates",
            presets={
                "cpu": CartpoleConfig.share,
                "smoke": CartpoleConfig.smoke,
                "paper": CartpoleConfig,
            },
            units=cartpole.units,
            report=partial(_report, cartpole_report.write, verdict.cartpole),
            on_request=("cpu",),
            seeds=SEEDS,
        ),
        Experiment(
            name="locomotion",
            title="(c) Cheetah run and walker walk",
            about="a model with CEM, an embedded controller, PPO through it; scaled in "
            "preset cpu, for a GPU in preset paper",
            presets={
                "cpu": locomotion_presets.scaled,
                "smoke": locomotion_presets.smoke,
                "paper": LocomotionConfig,
            },
            units=locomotion.units,
            report=partial(_report, locomotion_report.write, verdict.locomotion),
            on_request=("cpu",),
            seeds=lambda config: range(config.models),
        ),
    ),
    columns=verdict.COLUMNS,
    above=READING + "\n" + verdict.HEADING,
    below=verdict.RULES,
    stages_needed=("paper",),
)
