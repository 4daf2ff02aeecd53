"""Gymnasium's wrappers that write videos, around environments of ours (by moviepy)."""

from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
from painter_env import Painter

from diffplan.envs.base import EnvOptions
from diffplan.envs.vector import VectorEnv


def test_videos_of_one_environment_and_of_several(tmp_path: Path) -> None:
    options = EnvOptions(time_limit=5, image_size=16)
    single = gymnasium.wrappers.RecordVideo(Painter(options), str(tmp_path / "one"))
    single.reset(seed=0)
    while not single.step(np.zeros(1))[3]:
        pass
    single.close()
    assert len(list((tmp_path / "one").glob("*.mp4"))) == 1
    several = VectorEnv([partial(Painter, options)] * 3)
    several = gymnasium.wrappers.vector.RecordVideo(several, str(tmp_path / "all"))
    several.reset(seed=0)
    for _ in range(5):
        several.step(np.zeros((3, 1)))
    several.close()
    assert len(list((tmp_path / "all").glob("*.mp4"))) == 1
