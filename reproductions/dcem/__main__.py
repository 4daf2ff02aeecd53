"""The command line: `python -m reproductions.dcem --help`."""

import sys
from collections.abc import Sequence

from reproductions.common.command import Reproduction, Work
from reproductions.dcem import report
from reproductions.dcem.config import PRESETS, STAGES, preset_config

ABOUT = """\
Reproduce "The Differentiable Cross-Entropy Method" (Amos and Yarats, ICML 2020).

presets
  cpu    (default)
         regression  an energy trained through its minimisation, by unrolled gradient
                     descent and by DCEM: the paper's protocol in full
         cartpole    the expert in full; of the learned embeddings a share: latent
                     sizes 2 and 8 at temperature 1, a fifth of the updates
         locomotion  cheetah run and walker walk, scaled: a model with CEM, an
                     embedded controller, PPO through it
  smoke  the same stages, so small that their numbers mean nothing
  paper  all in full, for days: --stages says what; locomotion is for a GPU

settings
  key=value replaces one setting, such as regression.training.updates=1000; --settings
  lists all keys of a preset with their values and meaning. The seeds of a method are
  trained together, as one unit: other --seeds need another --directory.
"""


UNCHOSEN = (
    f"--stages: expected some of {','.join(STAGES)} with --preset paper, which takes "
    "days; name all of them to run it whole"
)


def work(preset: str, overrides: Sequence[str]) -> Work:
    """Return the units of a preset."""
    config = preset_config(preset, overrides)
    return Work(config, config.units, UNCHOSEN if preset == "paper" else "")


COMMAND = Reproduction(
    name="dcem",
    about=ABOUT,
    presets=PRESETS,
    stages=STAGES,
    seeds="0,1,2 (stage locomotion: 0)",
    work=work,
    report=report.write,
)

if __name__ == "__main__":
    sys.exit(COMMAND.main())
