import io
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffplan._files import seal
from diffplan.errors import (
    ArgumentError,
    FileError,
    NonFiniteError,
    ShapeError,
    TensorTypeError,
)
from diffplan.training import Episode, ReplayBuffer, load_episode, save_episode
from diffplan.training import episode as episode_file


def numbered(length: int, number: int, **extra: object) -> Episode:
    """Return an episode whose every entry says where it comes from."""
    base = 1000.0 * number
    steps = np.arange(length + 1, dtype=np.float32)
    return Episode(
        observations=(base + steps)[:, None],
        actions=(base + steps[:-1] + 0.25)[:, None],
        rewards=base + steps[:-1] + 0.5,
        **extra,
    )


def filled(*lengths: int) -> ReplayBuffer:
    buffer = ReplayBuffer()
    for number, length in enumerate(lengths):
        buffer.add(numbered(length, number))
    return buffer


def starts(buffer: ReplayBuffer, draws: int, length: int, **how: object) -> Counter:
    generator = torch.Generator().manual_seed(1)
    batch = buffer.sample(draws, length, generator, **how)
    return Counter(batch.observations[:, 0, 0].int().tolist())


def test_every_window_is_a_slice_of_an_episode(generator: torch.Generator) -> None:
    lengths, length = (4, 9, 6), 4
    batch = filled(*lengths).sample(300, length, generator)
    slices = set()
    for number, size in enumerate(lengths):
        episode = numbered(size, number)
        for t in range(size - length + 1):
            window = (
                episode.observations[t : t + length + 1],
                episode.actions[t : t + length],
                episode.rewards[t : t + length],
            )
            slices.add(tuple(np.concatenate([part.ravel() for part in window])))
    drawn = {
        tuple(torch.cat([o.ravel(), a.ravel(), r]).tolist())
        for o, a, r in zip(
            batch.observations, batch.actions, batch.rewards, strict=True
        )
    }
    assert drawn == slices


def test_episodes_first_then_starts_are_uniform() -> None:
    draws = 30000
    counts = starts(filled(4, 9), draws, 4)
    # Episode 0 has one window, episode 1 six: probabilities 1/2 and 1/12 each.
    expected = {0: 1 / 2, **{1000 + t: 1 / 12 for t in range(6)}}
    assert set(counts) == set(expected)
    for start, share in expected.items():
        error = (share * (1 - share) / draws) ** 0.5
        assert abs(counts[start] / draws - share) < 5 * error


def test_skip_last_step_is_refused_beside_absorbing_steps() -> None:
    buffer = ReplayBuffer(absorbing_steps=3)
    buffer.add(numbered(6, 0, terminated=True))
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ArgumentError, match="skip_last_step: expected False"):
        buffer.sample(1, 2, generator, skip_last_step=True)


def test_skip_last_step_never_shows_the_last_transition() -> None:
    counts = starts(filled(9), 2000, 4, skip_last_step=True)
    assert set(counts) == {0, 1, 2, 3, 4}
    assert set(starts(filled(9), 2000, 4)) == {0, 1, 2, 3, 4, 5}


def test_initial_fraction_adds_to_the_uniform_share() -> None:
    draws = 30000
    share = starts(filled(9), draws, 4, initial_fraction=0.15)[0] / draws
    expected = 0.15 + 0.85 / 6
    assert abs(share - expected) < 5 * (expected * (1 - expected) / draws) ** 0.5
    assert set(starts(filled(9), 100, 4, initial_fraction=1.0)) == {0}


def test_sampling_repeats_by_generator_and_leaves_global_state_alone() -> None:
    buffer = filled(7, 8)
    before = torch.get_rng_state()
    first = buffer.sample(5, 3, torch.Generator().manual_seed(2))
    again = buffer.sample(5, 3, torch.Generator().manual_seed(2))
    assert torch.equal(first.observations, again.observations)
    assert torch.equal(before, torch.get_rng_state())


def test_images_stay_bytes_on_disk_and_in_batches(
    tmp_path: Path, generator: torch.Generator
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), np.uint8)
    buffer = ReplayBuffer(tmp_path)
    buffer.add(Episode(images, np.zeros((3, 2)), np.zeros(3)))
    batch = ReplayBuffer.load(tmp_path).sample(2, 3, generator)
    assert batch.observations.dtype == torch.uint8
    assert torch.equal(batch.observations[1], torch.from_numpy(images))


def test_disk_round_trip_keeps_everything(tmp_path: Path) -> None:
    success = np.array([0, 0, 1], np.float32)
    episode = numbered(3, 1, success=success, initial_info={"distance": 0.1})
    save_episode(episode, tmp_path / "one.npz")
    loaded = load_episode(tmp_path / "one.npz")
    for name in ("observations", "actions", "rewards", "success"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(episode, name))
        assert getattr(loaded, name).dtype == np.float32
    assert loaded.initial_info == {"distance": 0.1}
    assert loaded.succeeded is True
    assert numbered(3, 1).succeeded is None
    assert loaded.episode_return == 3 * 1000 + 0.5 + 1.5 + 2.5


def test_loaded_buffer_equals_the_written_one_and_goes_on(tmp_path: Path) -> None:
    buffer = ReplayBuffer(tmp_path)
    for number in range(3):
        buffer.add(numbered(4 + number, number))
    loaded = ReplayBuffer.load(tmp_path)
    first = buffer.sample(20, 4, torch.Generator().manual_seed(0))
    again = loaded.sample(20, 4, torch.Generator().manual_seed(0))
    assert torch.equal(first.actions, again.actions)
    loaded.add(numbered(4, 3))
    assert len(list(tmp_path.glob("episode_*.npz"))) == 4


def test_restore_ignores_later_episodes_and_overwrites_them(tmp_path: Path) -> None:
    buffer = ReplayBuffer(tmp_path)
    for number in range(3):
        buffer.add(numbered(4, number))
    resumed = ReplayBuffer(tmp_path)
    resumed.restore(2)
    resumed.add(numbered(4, 7))
    everything = ReplayBuffer.load(tmp_path)
    assert [int(e.observations[0, 0]) for e in everything.episodes] == [0, 1000, 7000]


def test_capacity_forgets_the_oldest_episodes_in_memory_only(tmp_path: Path) -> None:
    buffer = ReplayBuffer(tmp_path, capacity=10)
    for number in range(4):
        buffer.add(numbered(4, number))
    assert [int(e.observations[0, 0]) for e in buffer.episodes] == [2000, 3000]
    assert buffer.num_transitions == 8
    assert len(list(tmp_path.glob("*.npz"))) == 4
    assert len(ReplayBuffer.load(tmp_path, capacity=10)) == 2


def test_short_episodes_are_an_error_unless_skipped() -> None:
    buffer = filled(3, 9)
    generator = torch.Generator()
    with pytest.raises(ArgumentError, match=r"shortest episode, 3 actions, got.* 5"):
        buffer.sample(1, 5, generator)
    assert min(starts(buffer, 50, 5, skip_short=True)) >= 1000
    with pytest.raises(ArgumentError, match="0 of 2 episodes are long enough"):
        buffer.sample(1, 10, generator, skip_short=True)
    with pytest.raises(ArgumentError, match="got a window of 4"):
        filled(3).sample(1, 3, generator, skip_last_step=True)


def test_empty_buffer_and_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="buffer is empty"):
        ReplayBuffer().sample(1, 1, torch.Generator())
    with pytest.raises(ArgumentError, match="expected episodes, none in"):
        ReplayBuffer.load(tmp_path)


@pytest.mark.parametrize("name", ["observations", "actions", "rewards"])
def test_not_finite_numbers_are_named(name: str) -> None:
    arrays = {
        "observations": np.zeros((4, 2)),
        "actions": np.zeros((3, 1)),
        "rewards": np.zeros(3),
    }
    arrays[name][2] = np.nan
    with pytest.raises(NonFiniteError, match=f"{name}: .* at step 2 of 3"):
        Episode(**arrays)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_an_episode_copies_what_it_is_given(dtype: type) -> None:
    """An environment may hand out one array again and again."""
    arrays = {
        "observations": np.ones((4, 2), dtype),
        "actions": np.ones((3, 1), dtype),
        "rewards": np.ones(3, dtype),
        "success": np.ones(3, dtype),
    }
    info = {"start": 1.0}
    episode = Episode(**arrays, initial_info=info)
    info["start"] = 7.0
    for name, array in arrays.items():
        array[:] = 7
        kept = getattr(episode, name)
        assert (kept == 1).all(), name
        images = name == "observations" and dtype is np.uint8
        assert kept.dtype == (np.uint8 if images else np.float32), name
    assert episode.initial_info == {"start": 1.0}


@pytest.mark.parametrize("terminated", [False, True])
def test_an_end_of_the_task_is_kept_and_marked_in_its_window(
    terminated: bool, tmp_path: Path
) -> None:
    buffer = ReplayBuffer(tmp_path)
    buffer.add(replace(numbered(4, 0), terminated=terminated))
    again = ReplayBuffer.load(tmp_path)
    assert again.episodes[0].terminated is terminated
    batch = again.sample(50, 2, torch.Generator().manual_seed(0))
    # Observations count the steps: the last window ends with the fourth transition.
    last = batch.observations[:, -1, 0] == again.episodes[0].observations[-1, 0]
    assert last.any()
    assert not last.all()
    assert batch.terminated[:, 1].equal(last & terminated)
    assert not batch.terminated[:, 0].any()


def test_windows_go_on_behind_an_end_of_the_task() -> None:
    buffer = ReplayBuffer(absorbing_steps=5)
    buffer.add(replace(numbered(2, 0), terminated=True))
    buffer.add(numbered(9, 1))  # cut short: what follows is unknown
    batch = buffer.sample(400, 4, torch.Generator().manual_seed(0))
    windows = {
        tuple(torch.cat([o.ravel(), a.ravel(), r, e]).tolist())
        for o, a, r, e in zip(*vars(batch).values(), strict=True)
    }
    mine = {window for window in windows if window[0] < 1000}
    actions = [0.25, 1.25]
    assert mine == {
        (0, 1, 2, 2, 2, *actions, *actions, 0.5, 1.5, 0, 0, 0, 1, 1, 1),
        (1, 2, 2, 2, 2, *actions[1:], *actions, *actions[:1], 1.5, *[0] * 3, *[1] * 4),
        (2, 2, 2, 2, 2, *actions, *actions, *[0] * 4, *[1] * 4),
        (2, 2, 2, 2, 2, *actions[1:], *actions, *actions[:1], *[0] * 4, *[1] * 4),
    }
    assert len(windows - mine) == 6
    assert not any(any(window[-4:]) for window in windows - mine)


def test_what_is_no_bool_is_no_end() -> None:
    # The suite's type checker may speak first.
    with pytest.raises(TypeError, match="terminated"):
        replace(numbered(4, 0), terminated=0.0)


def test_an_episode_of_version_1_counts_as_not_terminated(tmp_path: Path) -> None:
    path, buffer = tmp_path / "old.npz", io.BytesIO()
    arrays = {"observations": np.ones((3, 2)), "actions": np.ones((2, 1))}
    arrays = {**arrays, "rewards": np.ones(2), "info_start": np.float64(0.5)}
    np.savez(buffer, **{name: np.float32(value) for name, value in arrays.items()})
    path.write_bytes(seal(buffer.getvalue(), "diffplan.episode/1")[0])
    episode = load_episode(path)
    assert episode.terminated is False
    assert episode.initial_info == {"start": 0.5}
    path.write_bytes(seal(buffer.getvalue(), "diffplan.episode/3")[0])
    with pytest.raises(FileError, match=r"it is a diffplan.episode/3, not"):
        load_episode(path)


def test_a_run_goes_on_behind_episodes_of_version_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = ReplayBuffer(tmp_path)
    with monkeypatch.context() as older:
        older.setattr(episode_file, "_KIND", "diffplan.episode/1")
        buffer.add(numbered(4, 0))
    before = buffer.checksum
    again = ReplayBuffer(tmp_path)
    again.restore(1, before)
    again.add(replace(numbered(4, 1), terminated=True))
    both = ReplayBuffer(tmp_path)
    both.restore(2, again.checksum)
    assert [episode.terminated for episode in both.episodes] == [False, True]


def test_views_and_tensors_are_copied_too() -> None:
    whole = np.arange(20, dtype=np.float32).reshape(5, 4)
    rewards = torch.ones(4)
    episode = Episode(whole[:, ::2], whole[:4, 1:2], rewards.numpy())
    whole[:] = rewards[:] = -1
    assert episode.observations.tolist()[1] == [4, 6]
    assert episode.actions[:, 0].tolist() == [1, 5, 9, 13]
    assert episode.rewards.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "success"])
@pytest.mark.parametrize("dtype", [complex, str, object])
def test_what_is_no_real_number_is_refused(name: str, dtype: type) -> None:
    arrays = {
        "observations": np.zeros((4, 2)),
        "actions": np.zeros((3, 1)),
        "rewards": np.zeros(3),
        "success": np.zeros(3),
    }
    arrays[name] = arrays[name].astype(dtype)
    with pytest.raises(TensorTypeError, match=f"{name}: expected an array of real"):
        Episode(**arrays)


def test_what_float32_cannot_hold_is_refused() -> None:
    with pytest.raises(NonFiniteError, match=r"rewards: .* at step 1 of 3"):
        Episode(np.zeros((4, 2)), np.zeros((3, 1)), np.array([0, 1e39, 0]))


def test_lengths_and_shapes_must_fit() -> None:
    for rewards in (np.zeros((3, 1)), np.float32(0)):
        with pytest.raises(ShapeError, match="rewards: expected"):
            Episode(np.zeros((4, 2)), np.zeros((3, 1)), np.asarray(rewards))
    with pytest.raises(ShapeError, match=r"observations: expected \[4, …\]"):
        Episode(np.zeros(4), np.zeros((3, 1)), np.zeros(3))
    for actions in (np.zeros(3), np.zeros((0, 1)), np.float32(0)):
        with pytest.raises(ShapeError, match=r"actions: expected \[T, A\]"):
            Episode(np.zeros((4, 2)), np.asarray(actions), np.zeros(3))
    with pytest.raises(ShapeError, match="observations: expected length 4 for 3"):
        Episode(np.zeros((3, 2)), np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(ShapeError, match="rewards: expected length 3"):
        Episode(np.zeros((4, 2)), np.zeros((3, 1)), np.zeros(4))
    buffer = filled(3)
    with pytest.raises(ShapeError, match="actions: expected float32"):
        buffer.add(Episode(np.zeros((4, 1)), np.zeros((3, 2)), np.zeros(3)))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "episode_000000.npz"
    save_episode(numbered(3, 0), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ArgumentError, match=r"cannot read .*episode_000000"):
        load_episode(path)
    with pytest.raises(ArgumentError, match="cannot read"):
        load_episode(tmp_path / "absent.npz")


def two_folders(tmp_path: Path) -> tuple[Path, Path]:
    """Return the folders of two runs of four episodes each."""
    folders = tmp_path / "mine", tmp_path / "other"
    for first, folder in zip((0, 10), folders, strict=True):
        buffer = ReplayBuffer(folder)
        for number in range(first, first + 4):
            buffer.add(numbered(4, number))
    return folders


@pytest.mark.parametrize("index", range(4))
def test_an_episode_of_another_run_is_noticed(index: int, tmp_path: Path) -> None:
    mine, other = two_folders(tmp_path)
    name = f"episode_{index:06d}.npz"
    shutil.copy(other / name, mine / name)
    with pytest.raises(FileError, match=r"of another run.*put back"):
        ReplayBuffer.load(mine)


def test_exchanged_and_missing_episodes_are_noticed(tmp_path: Path) -> None:
    mine, other = two_folders(tmp_path)
    names = [f"episode_{index:06d}.npz" for index in range(4)]
    (mine / names[1]).rename(mine / "kept")
    (mine / names[2]).rename(mine / names[1])
    (mine / "kept").rename(mine / names[2])
    with pytest.raises(FileError, match="of another run"):
        ReplayBuffer.load(mine)
    (other / names[1]).unlink()
    with pytest.raises(FileError, match="no such file"):
        ReplayBuffer.load(other)


def test_the_checksum_of_the_last_episode_vouches_for_all(tmp_path: Path) -> None:
    mine, other = two_folders(tmp_path)
    checksum = ReplayBuffer.load(mine).checksum
    again = ReplayBuffer(mine)
    again.restore(4, checksum)
    assert again.checksum == checksum
    for buffer, count in ((ReplayBuffer(other), 4), (ReplayBuffer(mine), 3)):
        with pytest.raises(FileError, match="that this run wrote"):
            buffer.restore(count, checksum)


def test_an_episode_of_other_shapes_is_named(tmp_path: Path) -> None:
    mine, _ = two_folders(tmp_path)
    buffer = ReplayBuffer(mine)
    buffer.add(Episode(np.zeros((4, 7)), np.zeros((3, 1)), np.zeros(3)))
    with pytest.raises(FileError, match="episode_000001"):
        ReplayBuffer.load(mine)
