"""Presets: what `python -m reproductions.dcem` does, and with which settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reproductions.common.config import apply_overrides, choose
from reproductions.common.stages import Unit
from reproductions.dcem import cartpole, regression
from reproductions.dcem.cartpole_config import CartpoleConfig
from reproductions.dcem.regression_config import RegressionConfig

PRESETS = ("cpu", "smoke", "paper")
STAGES = ("regression", "cartpole")


@dataclass(frozen=True)
class DCEMConfig:
    """Settings of all stages.

    Attributes:
        regression: Stage (a), an energy trained through its minimisation.
        cartpole: Stage (b), a learned embedding of action sequences.
    """

    regression: RegressionConfig = field(default_factory=RegressionConfig)
    cartpole: CartpoleConfig = field(default_factory=CartpoleConfig)

    @classmethod
    def cpu(cls) -> "DCEMConfig":
        """Return regression in full and a share of cartpole."""
        return cls(cartpole=CartpoleConfig.share())

    @classmethod
    def smoke(cls) -> "DCEMConfig":
        """Return settings of seconds."""
        return cls(RegressionConfig.smoke(), CartpoleConfig.smoke())

    def units(
        self, stages: Sequence[str], seeds: Sequence[int], directory: Path
    ) -> list[Unit]:
        """Return the work of some stages."""
        made: list[Unit] = []
        if "regression" in stages:
            made += regression.units(self.regression, seeds, directory / "regression")
        if "cartpole" in stages:
            made += cartpole.units(self.cartpole, seeds, directory / "cartpole")
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
