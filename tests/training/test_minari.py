"""What goes to Minari comes back as it was, and Minari reads it as its own."""

from pathlib import Path

import numpy as np
import pytest

import diffplan as dp
from diffplan.errors import ArgumentError, DiffplanError
from diffplan.training import Episode, ReplayBuffer, export_minari, import_minari

minari = pytest.importorskip("minari", reason="needs diffplan[minari]")
pytest.importorskip("h5py", reason="needs diffplan[minari]")
# Minari warns of each thing that is not told about a data set.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def episode(length: int, *, terminated: bool, images: bool = False) -> Episode:
    draw = np.random.default_rng(length)
    shape = (length + 1, 3, 64, 64) if images else (length + 1, 3)
    seen = draw.normal(size=shape).astype(np.float32)
    return Episode(
        draw.integers(0, 256, shape, dtype=np.uint8) if images else seen,
        draw.normal(size=(length, 2)).astype(np.float32),
        draw.normal(size=length).astype(np.float32),
        success=(draw.random(length) < 0.5).astype(np.float32),
        initial_info={"distance": 0.1, "seed": 7.0},
        terminated=terminated,
    )


@pytest.mark.parametrize("images", [False, True])
def test_what_comes_back_is_what_went(images: bool) -> None:
    buffer = ReplayBuffer()
    for length, terminated in ((4, True), (1, False), (6, True), (2, False)):
        buffer.add(episode(length, terminated=terminated, images=images))
    export_minari(buffer, "mine/test-v0")
    again = import_minari("mine/test-v0")
    assert len(again) == len(buffer)
    for mine, theirs in zip(buffer.episodes, again.episodes, strict=True):
        for name in ("observations", "actions", "rewards", "success"):
            first, second = getattr(mine, name), getattr(theirs, name)
            assert first.dtype == second.dtype
            assert first.tobytes() == second.tobytes()
        assert mine.initial_info == theirs.initial_info
        assert mine.terminated == theirs.terminated


@pytest.mark.parametrize("steps_tell", [True, False])
@pytest.mark.parametrize(
    "told", [{"success": 1.0}, {"a/b": 2.0, "50%": 0.5}, {"success": 0.0, "x": 1.0}, {}]
)
def test_what_the_reset_told_comes_back(
    told: dict[str, float], steps_tell: bool
) -> None:
    given = Episode(
        np.zeros((4, 2)),
        np.zeros((3, 1)),
        np.zeros(3),
        success=np.array([0.0, 1.0, 0.0]) if steps_tell else None,
        initial_info=told,
    )
    export_minari([given], "test-v0")
    (again,) = import_minari("test-v0").episodes
    assert again.initial_info == told
    assert (again.success is not None) == steps_tell
    if steps_tell:
        assert again.success.tolist() == [0.0, 1.0, 0.0]


def test_minari_reads_ends_spaces_and_what_is_told() -> None:
    box = dp.Box([-1.0, 0.0], [1.0, 2.0])
    kept = [episode(3, terminated=True), episode(2, terminated=False)]
    export_minari(kept, "test-v0", action_space=box, description="A test.")
    dataset = minari.load_dataset("test-v0")
    assert dataset.total_steps == 5
    assert dataset.storage.metadata["description"] == "A test."
    np.testing.assert_array_equal(dataset.action_space.high, [1.0, 2.0])
    ended, cut = dataset.iterate_episodes()
    assert ended.terminations.tolist() == [False, False, True]
    assert not ended.truncations.any()
    assert not cut.terminations.any()
    assert cut.truncations.tolist() == [False, True]


def test_data_of_others_is_read_or_refused_in_our_words() -> None:
    from gymnasium.spaces import Box, Discrete
    from minari.data_collector import EpisodeBuffer

    ends = {
        "rewards": [1.0, 2.0],
        "terminations": [False, False],
        "truncations": [False, False],  # the collection was stopped
    }
    seen = np.linspace(0, 1, 9).reshape(3, 3)  # float64
    whole = EpisodeBuffer(observations=seen, actions=np.ones((2, 1)), **ends)
    spaces = {"observation_space": Box(-1, 1, (3,), np.float64)}
    line = Box(-1, 1, (1,), np.float64)
    minari.create_dataset_from_buffers(
        "theirs-v0", [whole], action_space=line, **spaces
    )
    read = import_minari(minari.load_dataset("theirs-v0")).episodes[0]
    np.testing.assert_array_equal(read.observations, seen.astype(np.float32))
    assert read.success is None
    assert not read.terminated
    choices = EpisodeBuffer(observations=seen, actions=np.array([0, 1]), **ends)
    minari.create_dataset_from_buffers(
        "choices-v0", [choices], action_space=Discrete(2), **spaces
    )
    with pytest.raises(DiffplanError, match=r"actions: expected \[T, A\]"):
        import_minari("choices-v0")


def test_no_episodes_are_no_data_set() -> None:
    with pytest.raises(ArgumentError, match="at least one episode"):
        export_minari([], "test-v0")
