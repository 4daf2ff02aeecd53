"""Presets: what `python -m reproductions.latco` does, and with which settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffplan.errors import ArgumentError
from reproductions.common.config import apply_overrides, choose
from reproductions.common.stages import Unit
from reproductions.latco import comparison, online, pixels
from reproductions.latco.comparison_config import ComparisonConfig
from reproductions.latco.online_config import (
    OnlineRun,
    paper_run,
    small_cheetah,
    smoke_cheetah,
)
from reproductions.latco.pixels import PixelsConfig

PRESETS = ("cpu", "smoke", "paper")
STAGES = ("comparison", "online", "pixels")


@dataclass(frozen=True)
class StagesConfig:
    """Settings of the presets `cpu` and `smoke`.

    Attributes:
        comparison: Stage (a), planners on one frozen model.
        online: Stage (b), LatCo collects its own data.
        pixels: Stage (c), images.
    """

    comparison: ComparisonConfig = field(default_factory=ComparisonConfig)
    online: OnlineRun = field(default_factory=small_cheetah)
    pixels: PixelsConfig = field(default_factory=PixelsConfig)

    @classmethod
    def smoke(cls) -> "StagesConfig":
        """Return settings of seconds."""
        return cls(ComparisonConfig.smoke(), smoke_cheetah(), PixelsConfig.smoke())

    def units(
        self, stages: Sequence[str], seeds: Sequence[int], directory: Path
    ) -> list[Unit]:
        """Return the work of some stages, the longest chain first.

        While stage (a) fits its model on one core, the other stages fill the other.
        """
        made: list[Unit] = []
        if "comparison" in stages:
            made += comparison.units(self.comparison, seeds, directory / "comparison")
        if "online" in stages:
            made += online.units(self.online, seeds, directory / "online")
        if "pixels" in stages:
            made += pixels.units(self.pixels, directory / "pixels")
        return made


@dataclass(frozen=True)
class PaperChoice:
    """What `task=… planner=… seed=…` chose, and the settings that follow.

    Attributes:
        seed: Of the run.
        run: All settings.
    """

    seed: int
    run: OnlineRun


def stages_config(preset: str, overrides: Sequence[str] = ()) -> StagesConfig:
    """Return the settings of `cpu` or `smoke`.

    Raises:
        UnknownNameError: no such preset or setting; lists close matches.
    """
    choose("preset", preset, PRESETS)
    config = StagesConfig.smoke() if preset == "smoke" else StagesConfig()
    return apply_overrides(config, overrides)


def paper_config(overrides: Sequence[str] = ()) -> PaperChoice:
    """Return the settings of one run with the paper's protocol.

    `task=`, `planner=` and `seed=` choose the run; whatever else is given replaces
    single settings of it.

    Raises:
        UnknownNameError: no such task, planner or setting; lists close matches.
    """
    chosen = {"task": "reach", "planner": "latco", "seed": "0"}
    rest = []
    for text in overrides:
        key, _, value = text.partition("=")
        if key in chosen:
            chosen[key] = value
        else:
            rest.append(text)
    if not chosen["seed"].isdigit():
        raise ArgumentError(f"seed: expected a whole number, got {chosen['seed']!r}")
    task = chosen["task"].removeprefix("metaworld/").removeprefix("dm_control/")
    run = apply_overrides(paper_run(task, chosen["planner"]), rest)
    return PaperChoice(int(chosen["seed"]), run)
