"""Presets: what `python -m reproductions.dcem` does, and with which settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reproductions.common.config import apply_overrides, choose
from reproductions.common.stages import Unit
from reproductions.dcem import cartpole, locomotion, locomotion_presets, regression
from reproductions.dcem.cartpole_config import CartpoleConfig
from reproductions.dcem.locomotion_config import LocomotionConfig
from reproductions.dcem.regression_config import RegressionConfig

PRESETS = ("cpu", "smoke", "paper")
STAGES = ("regression", "cartpole", "locomotion")
DEFAULT_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class DCEMConfig:
    """Settings of all stages.

    Attributes:
        regression: Stage (a), an energy trained through its minimisation.
        cartpole: Stage (b), a learned embedding of action sequences.
        locomotion: Stage (c), cheetah and walker.
    """

    regression: RegressionConfig = field(default_factory=RegressionConfig)
    cartpole: CartpoleConfig = field(default_factory=CartpoleConfig)
    locomotion: LocomotionConfig = field(default_factory=LocomotionConfig)

    @classmethod
    def cpu(cls) -> "DCEMConfig":
        """Return regression in full, a share of cartpole, locomotion scaled."""
        return cls(
            cartpole=CartpoleConfig.share(), locomotion=locomotion_presets.scaled()
        )

    @classmethod
    def smoke(cls) -> "DCEMConfig":
        """Return settings of seconds."""
        return cls(
            RegressionConfig.smoke(), CartpoleConfig.smoke(), locomotion_presets.smoke()
        )

    def units(
        self,
        stages: Sequence[str] | None,
        seeds: Sequence[int] | None,
        directory: Path,
    ) -> list[Unit]:
        """Return the work of some stages.

        Args:
            stages: Some of `STAGES`; None stands for all.
            seeds: All are run. None stands for 0, 1 and 2, and in stage (c) for as
                many as `locomotion.models` says.
            directory: Of the runs.
        """
        stages = STAGES if stages is None else stages
        models = range(self.locomotion.models) if seeds is None else seeds
        seeds = DEFAULT_SEEDS if seeds is None else seeds
        made: list[Unit] = []
        if "regression" in stages:
            made += regression.units(self.regression, seeds, directory / "regression")
        if "cartpole" in stages:
            made += cartpole.units(self.cartpole, seeds, directory / "cartpole")
        if "locomotion" in stages:
            made += locomotion.units(self.locomotion, models, directory / "locomotion")
        return made


def preset_config(preset: str, overrides: Sequence[str] = ()) -> DCEMConfig:
    """Return the settings of a preset with some values replaced.

    Raises:
        UnknownNameError: no such preset or setting; lists close matches.
    """
    choose("preset", preset, PRESETS)
    made = {"cpu": DCEMConfig.cpu, "smoke": DCEMConfig.smoke, "paper": DCEMConfig}
    config: DCEMConfig = made[preset]()
    return apply_overrides(config, overrides)
