"""Videos of evaluation: what the agent saw, beside what its plan had imagined."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from diffplan.agents._base import AgentState
from diffplan.capabilities import Decoding, knows
from diffplan.training.video import side_by_side, write_video

_IMAGE_AXES = 4


class EpisodeRecorder:
    """An observer of `evaluate`: keeps the images of the first episode.

    At every decision it keeps the observation and, of the plan that is being executed,
    the decoded state that had been planned for this moment. Episodes without images
    are not recorded.

    Args:
        model: Decodes planned states; of one that cannot `decode` nothing is imagined.

    Example:
        >>> recorder = EpisodeRecorder(model)  # doctest: +SKIP
        >>> evaluate(agent, envs, [0], observer=recorder)  # doctest: +SKIP
        >>> recorder.write("videos/episode")  # doctest: +SKIP
    """

    def __init__(self, model: object) -> None:
        self.model = model
        self.seen: list[np.ndarray] = []
        self.imagined: list[np.ndarray] = []

    @torch.no_grad()
    def __call__(
        self,
        first: int,
        observations: np.ndarray,
        agent_state: AgentState,
        running: np.ndarray,
    ) -> None:
        """Keep one moment of the first episode of the first batch, until it ends."""
        if first != 0 or not running[0] or observations.ndim != _IMAGE_AXES:
            return
        self.seen.append(np.array(observations[0]))
        if agent_state.plan is not None and knows(self.model, Decoding):
            # The action that was just chosen is number age - 1 of the plan, and state
            # number age - 1 is where the plan had expected to be now.
            expected = agent_state.plan.states[0, int(agent_state.age[0]) - 1]
            image = self.model.decode(expected).float().cpu().numpy()
            # A plan that failed has no picture.
            self.imagined.append(np.nan_to_num(image))

    def write(self, path: Path | str) -> Path | None:
        """Write the video, reality on the left.

        Args:
            path: Without an ending: `.mp4` where ffmpeg is at hand, else `.gif`.

        Returns:
            The file, or None if nothing was recorded or no video can be written here.
        """
        if not self.seen or find_spec("imageio") is None:
            return None
        ending = ".mp4" if find_spec("imageio_ffmpeg") is not None else ".gif"
        videos = [np.stack(frames) for frames in (self.seen, self.imagined) if frames]
        file = Path(path).with_suffix(ending)
        write_video(file, side_by_side(*videos))
        return file
