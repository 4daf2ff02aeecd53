"""Experience: episodes in memory and on disk, and pieces of them for training."""

from collections import deque
from pathlib import Path

import numpy as np
import torch

from diffplan._checks import require_count, require_share
from diffplan._files import reading
from diffplan.errors import ArgumentError, FileError, ShapeError
from diffplan.models.base import SequenceBatch
from diffplan.training._files import remove_leftovers
from diffplan.training.episode import Episode, _load_linked_episode, save_episode


class ReplayBuffer:
    """Episodes, from which equally long windows are drawn at random.

    Each file holds the checksum of the one before it. So an episode of another run
    under the right name, or a missing or exchanged one, is noticed when they are read.

    Args:
        directory: Where added episodes are written, `episode_000000.npz` and so on;
            None keeps them in memory only.
        capacity: Most transitions kept in memory; the oldest episodes are forgotten
            first, their files stay. None keeps all.
        absorbing_steps: How many steps windows go on behind the end of a terminated
            episode: nothing moves or is earned there, whatever the action. So a model
            learns from rewards alone that an end has come, and windows may be longer
            than such an episode.

    Attributes:
        num_written: Episodes in the directory.
        checksum: Of the last one, which vouches for all before it; "" if there is none.

    Example:
        >>> buffer = ReplayBuffer()
        >>> buffer.add(Episode(np.zeros((9, 3)), np.zeros((8, 1)), np.zeros(8)))
        >>> batch = buffer.sample(4, 5, torch.Generator().manual_seed(0))
        >>> batch.observations.shape
        torch.Size([4, 6, 3])
    """

    def __init__(
        self,
        directory: Path | str | None = None,
        *,
        capacity: int | None = None,
        absorbing_steps: int = 0,
    ) -> None:
        if capacity is not None:
            capacity = require_count("capacity", capacity)
        self.directory = None if directory is None else Path(directory)
        self.capacity = capacity
        self.absorbing_steps = require_count("absorbing_steps", absorbing_steps, 0)
        self.num_written = 0
        self.checksum = ""
        self._episodes: deque[Episode] = deque()

    @classmethod
    def load(
        cls, directory: Path | str, *, capacity: int | None = None
    ) -> "ReplayBuffer":
        """Return a buffer with all episodes of `directory`, which it goes on writing.

        Raises:
            FileError: there is no episode, or one is damaged or does not belong here.
        """
        buffer = cls(directory, capacity=capacity)
        count = len(list(Path(directory).glob("episode_*.npz")))
        if count == 0:
            raise FileError(f"directory: expected episodes, none in {directory}")
        buffer.restore(count)
        return buffer

    @property
    def episodes(self) -> tuple[Episode, ...]:
        """Return the episodes in memory, oldest first."""
        return tuple(self._episodes)

    @property
    def num_transitions(self) -> int:
        """Number of actions in memory."""
        return sum(episode.length for episode in self._episodes)

    def __len__(self) -> int:
        return len(self._episodes)

    def add(self, episode: Episode, *, write: bool = True) -> None:
        """Append an episode.

        Args:
            episode: All episodes have the same observation and action shapes.
            write: Whether to write it to the directory, if there is one.

        Raises:
            ShapeError: its shapes differ from those of the first episode.
        """
        if self._episodes:
            _require_like(episode, self._episodes[0])
        if write and self.directory is not None:
            path = episode_path(self.directory, self.num_written)
            self.checksum = save_episode(episode, path, previous=self.checksum)
            self.num_written += 1
        self._episodes.append(episode)
        if self.capacity is not None:
            while self.num_transitions > self.capacity and len(self._episodes) > 1:
                self._episodes.popleft()

    def restore(self, count: int, checksum: str | None = None) -> None:
        """Read the first `count` episodes of the directory; later ones are ignored.

        What is ignored was written after the moment that is gone back to, and will be
        overwritten.

        Args:
            count: How many.
            checksum: What the buffer's was at that moment; None does not compare.

        Raises:
            ArgumentError: there is no directory, or `count` is no whole number.
            FileError: an episode is missing, damaged, or not the one that was written.
        """
        if self.directory is None:
            raise ArgumentError(
                "directory: expected a folder to restore from, got None"
            )
        count = require_count("count", count, 0)
        remove_leftovers(self.directory)
        last = ""
        for index in range(count):
            path = episode_path(self.directory, index)
            episode, own, previous = _load_linked_episode(path)
            if previous != last:
                raise FileError(
                    f"path: expected episode {index} of this folder's run, {path} was "
                    "not written after the one before it: one of them is of another "
                    "run, or this run was begun again; put back the right one, or "
                    "delete this one and those after it"
                )
            with reading(path, "an episode like those before it"):
                self.add(episode, write=False)
            last = own
        if checksum not in (None, last):
            raise FileError(
                f"directory: expected the {count} episodes that this run wrote, those "
                f"in {self.directory} are others; put them back, or delete the run's "
                "folder to start from the beginning"
            )
        self.num_written, self.checksum = count, last

    def sample(
        self,
        batch_size: int,
        length: int,
        generator: torch.Generator,
        *,
        initial_fraction: float = 0.0,
        skip_short: bool = False,
        skip_last_step: bool = False,
    ) -> SequenceBatch:
        """Draw windows: an episode uniformly, then a start uniformly, with replacement.

        Args:
            batch_size: B, number of windows.
            length: L, number of actions in each.
            generator: Source of all randomness.
            initial_fraction: Share of the draws that start at the reset, 0 … 1; the
                others start anywhere, the reset included.
            skip_short: Whether to leave out episodes shorter than `length`; otherwise
                they are an error.
            skip_last_step: Whether the last transition of an episode is never drawn,
                as in the released loaders of Dreamer and LatCo; not with
                `absorbing_steps`, for which it was made to be seen.

        Returns:
            Tensors on the CPU; images stay uint8.

        Raises:
            ArgumentError: no episode, or one that is too short; a bad argument.
        """
        batch_size = require_count("batch_size", batch_size)
        length = require_count("length", length)
        require_share("initial_fraction", initial_fraction)
        if skip_last_step and self.absorbing_steps:
            raise ArgumentError(
                "skip_last_step: expected False, for absorbing steps follow the last "
                "transition, got True"
            )
        needed = length + bool(skip_last_step)
        episodes = self._long_enough(needed, skip_short)
        device = generator.device
        chosen = torch.randint(
            len(episodes), (batch_size,), generator=generator, device=device
        ).tolist()
        share = torch.rand(
            batch_size, generator=generator, device=device, dtype=torch.float64
        ).tolist()
        coin = torch.rand(batch_size, generator=generator, device=device).tolist()
        windows = []
        for index, position, toss in zip(chosen, share, coin, strict=True):
            episode = episodes[index]
            start = int(position * (self._reach(episode) - needed + 1))
            windows.append((episode, 0 if toss < initial_fraction else start))
        return _stack(windows, length)

    def _long_enough(self, needed: int, skip_short: bool) -> list[Episode]:
        if not self._episodes:
            raise ArgumentError("sample: the replay buffer is empty")
        shortest = min(map(self._reach, self._episodes))
        if shortest >= needed:
            return list(self._episodes)
        fitting = [item for item in self._episodes if self._reach(item) >= needed]
        if not skip_short or not fitting:
            raise ArgumentError(
                f"length: expected at most the shortest episode, {shortest} actions, "
                f"got a window of {needed}; shorten the window or skip_short=True "
                f"({len(fitting)} of {len(self._episodes)} episodes are long enough)"
            )
        return fitting

    def _reach(self, episode: Episode) -> int:
        """Return how many actions a window of an episode may hold."""
        return episode.length + self.absorbing_steps * episode.terminated


def episode_path(directory: Path, index: int) -> Path:
    """Return the file of the episode that was written as number `index`."""
    return directory / f"episode_{index:06d}.npz"


def _stack(windows: list[tuple[Episode, int]], length: int) -> SequenceBatch:
    pieces = [_window(episode, start, length) for episode, start in windows]
    columns = zip(*pieces, strict=True)
    return SequenceBatch(*(torch.from_numpy(np.stack(each)) for each in columns))


def _window(episode: Episode, start: int, length: int) -> tuple[np.ndarray, ...]:
    """Return observations, actions, rewards and ends of a window, `[L (+ 1), …]`."""
    times = np.arange(start, start + length)
    inside = times < episode.length
    seen = np.arange(start, start + length + 1).clip(max=episode.length)
    taken = times % episode.length  # Behind the end any actions will do: its own.
    return (
        episode.observations[seen],
        episode.actions[taken],
        np.where(inside, episode.rewards[taken], np.float32(0)),
        episode.terminated & (times >= episode.length - 1),
    )


def _require_like(episode: Episode, first: Episode) -> None:
    for name in ("observations", "actions"):
        mine, theirs = getattr(episode, name), getattr(first, name)
        if mine.shape[1:] != theirs.shape[1:] or mine.dtype != theirs.dtype:
            raise ShapeError(
                f"{name}: expected {theirs.dtype} […, {list(theirs.shape[1:])}] as in "
                f"the first episode, got {mine.dtype} {list(mine.shape[1:])}"
            )
