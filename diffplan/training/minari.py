"""Episodes from and to Minari, the format in which others share offline data."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from diffplan._checks import missing
from diffplan.constraints._box import BoxLike, as_box
from diffplan.errors import ArgumentError
from diffplan.training.episode import Episode
from diffplan.training.replay_buffer import ReplayBuffer

_SUCCESS = "success"


def export_minari(
    episodes: ReplayBuffer | Iterable[Episode],
    dataset_id: str,
    *,
    action_space: BoxLike | None = None,
    **about: Any,
) -> Any:
    """Write episodes as a data set of Minari, nothing of them lost.

    It lies in Minari's folder, `MINARI_DATASETS_PATH` if that is set. What was told at
    a reset stands in `infos` at the reset, with NaN at the steps, and success at the
    steps; NaN stands for what was not told. An episode that was not terminated is
    truncated.

    Args:
        episodes: At least one.
        dataset_id: "name-v0", or with groups before it: "mine/reach/expert-v0".
        action_space: A box; left out, bounds of actions are infinite.
        **about: Of Minari's `create_dataset_from_buffers`: `env`, `author`,
            `description`, `algorithm_name` and others.

    Returns:
        The `minari.MinariDataset`.

    Raises:
        ArgumentError: there is no episode.
        MissingDependencyError: Minari is missing.
    """
    minari = _minari()
    from gymnasium.spaces import Box

    if isinstance(episodes, ReplayBuffer):
        episodes = episodes.episodes
    kept = list(episodes)
    if not kept:
        raise ArgumentError("episodes: expected at least one episode, got none")
    seen, acted = kept[0].observations, kept[0].actions
    images = seen.dtype == np.uint8
    low, high = (0, 255) if images else (-np.inf, np.inf)
    bounds: tuple[Any, Any] = (-np.inf, np.inf)
    if action_space is not None:
        box = as_box("action_space", action_space)
        bounds = (box.low.float().numpy(), box.high.float().numpy())
    return minari.create_dataset_from_buffers(
        dataset_id,
        [_buffer(index, episode) for index, episode in enumerate(kept)],
        observation_space=Box(low, high, seen.shape[1:], seen.dtype.type),
        action_space=Box(*bounds, acted.shape[1:], np.float32),
        jpeg_encoding=False,  # which loses digits
        **about,
    )


def import_minari(dataset: Any) -> ReplayBuffer:
    """Return the episodes of a data set of Minari, in memory.

    Numbers become float32, as in every `Episode`; images stay uint8. Of `infos`,
    success is kept, and numbers that are told at the reset alone.

    Args:
        dataset: A `minari.MinariDataset`, or the id of one that is on this machine.

    Raises:
        TensorTypeError: observations or actions are no arrays of numbers (dictionaries,
            texts).
        ShapeError: actions are no vectors (choices are not), or shapes differ.
        MissingDependencyError: Minari is missing.
    """
    minari = _minari()
    if isinstance(dataset, str):
        dataset = minari.load_dataset(dataset)
    buffer = ReplayBuffer()
    for data in dataset.iterate_episodes():
        infos = data.infos or {}
        success = np.asarray(infos.get(_SUCCESS, [np.nan]), np.float32)[1:]
        episode = Episode(
            data.observations,
            data.actions,
            data.rewards,
            success=None if np.isnan(success).all() else success,
            initial_info=_told_at_reset(infos),
            terminated=bool(data.terminations[-1]),
        )
        buffer.add(episode)
    return buffer


def _minari() -> Any:
    try:
        import minari
    except ImportError as error:
        raise missing("data sets need minari", "minari") from error
    return minari


def _buffer(index: int, episode: Episode) -> Any:
    from minari.data_collector import EpisodeBuffer

    last = np.arange(episode.length) == episode.length - 1
    infos: dict[str, np.ndarray] = {  # HDF5 takes a name with "/" for a path
        quote(name, safe=" "): np.array([value, *[np.nan] * episode.length])
        for name, value in episode.initial_info.items()
    }
    if episode.success is not None:
        first = episode.initial_info.get(_SUCCESS, np.nan)
        infos[_SUCCESS] = np.concatenate([[first], episode.success])
    return EpisodeBuffer(
        id=index,
        observations=episode.observations,
        actions=episode.actions,
        rewards=episode.rewards,
        terminations=last & episode.terminated,
        truncations=last & (not episode.terminated),
        infos=infos,
    )


def _told_at_reset(infos: dict[str, Any]) -> dict[str, float]:
    found = {}
    for name, values in infos.items():
        numbers = not isinstance(values, dict) and np.asarray(values).dtype.kind == "f"
        if not numbers or np.ndim(values) != 1 or np.isnan(values[0]):
            continue
        if name == _SUCCESS or np.isnan(values[1:]).all():
            found[unquote(name)] = float(values[0])
    return found
