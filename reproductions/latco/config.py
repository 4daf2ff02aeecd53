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
DEFAULT_SEEDS = (0,)


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
        self,
        stages: Sequence[str] | None,
        seeds: Sequence[int] | None,
        directory: Path,
    ) -> list[Unit]:
        """Return the work of some stages, the longest chain first.

        While stage (a) fits its model on one core, the other stages fill the other.

        Args:
            stages: Some of `STAGES`; None stands for all.
            seeds: Of stages (a) and (b); stage (c) has one model.
            directory: Of the runs.

        Raises:
            ArgumentError: seeds are given, and stage (c) alone.
        """
        if seeds is not None and stages is not None and {*stages} == {"pixels"}:
            raise ArgumentError("--seeds: stage pixels has one model and no seeds")
        stages = STAGES if stages is None else stages
        seeds = DEFAULT_SEEDS if seeds is None else seeds
        made: list[Unit] = []
        if "comparison" in stages:
            made += comparison.units(self.comparison, seeds, directory / "comparison")
        if "online" in stages:
            made += online.units(self.online, seeds, directory / "online")
        if "pixels" in stages:
            made += pixels.units(self.pixels, directory / "pixels")
        return made


def stages_config(preset: str, overrides: Sequence[str] = ()) -> StagesConfig:
    """Return the settings of `cpu` or `smoke`.

    Raises:
        UnknownNameError: no such preset or setting; lists close matches.
    """
    choose("preset", preset, PRESETS)
    config = StagesConfig.smoke() if preset == "smoke" else StagesConfig()
    return apply_overrides(config, overrides)


def paper_config(overrides: Sequence[str] = ()) -> OnlineRun:
    """Return the settings of the runs with the paper's protocol.

    `task=` and `planner=` choose them; whatever else is given replaces single settings.

    Raises:
        UnknownNameError: no such task, planner or setting; lists close matches.
        ArgumentError: `seed=`, which is chosen by `--seeds`.
    """
    chosen = {"task": "reach", "planner": "latco"}
    rest = []
    for text in overrides:
        key, _, value = text.partition("=")
        if key == "seed":
            raise ArgumentError(f"seed: expected --seeds {value}")
        if key in chosen:
            chosen[key] = value
        else:
            rest.append(text)
    task = chosen["task"].removeprefix("metaworld/").removeprefix("dm_control/")
    return apply_overrides(paper_run(task, chosen["planner"]), rest)
