import os
from pathlib import Path

import pytest
import torch

from diffplan._files import write_atomically
from diffplan.errors import ArgumentError
from diffplan.training import Checkpoints, CheckpointWarning


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_newest_checkpoint_comes_back_and_old_ones_go(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for index in (1, 2, 10):
        checkpoints.save(
            index, {"weights": torch.full((3,), float(index)), "n": [index]}
        )
    index, state = checkpoints.load_latest()
    assert index == 10
    assert state["n"] == [10]
    assert torch.equal(state["weights"], torch.full((3,), 10.0))
    assert [name[:19] for name in names(tmp_path)] == [
        "checkpoint_00000002",
        "checkpoint_00000010",
    ]


def test_generators_go_on_where_they_stopped(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    torch.randn(7, generator=generator)
    Checkpoints(tmp_path).save(0, {"generator": generator.get_state()})
    expected = torch.randn(5, generator=generator)
    restored = torch.Generator()
    restored.set_state(Checkpoints(tmp_path).load_latest()[1]["generator"])
    assert torch.equal(torch.randn(5, generator=restored), expected)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    damage: str, tmp_path: Path
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"weights": torch.ones(1000)})
    path = checkpoints.save(2, {"weights": torch.ones(1000)})
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        # Somewhere in the tensor's 4,000 bytes of ones.
        place = content.find(torch.ones(4).numpy().tobytes()) + 100
        content[place] ^= 0xFF
    kept = {"cut": len(content) // 2, "empty": 0, "flipped": len(content)}[damage]
    path.write_bytes(content[:kept])
    with pytest.warns(CheckpointWarning, match="checkpoint_00000002"):
        index, state = checkpoints.load_latest()
    assert index == 1
    assert torch.equal(state["weights"], torch.ones(1000))


def test_no_readable_checkpoint_is_an_error_and_no_checkpoint_is_none(
    tmp_path: Path,
) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.load_latest() is None
    checkpoints.save(1, {}).write_bytes(b"")
    with (
        pytest.warns(CheckpointWarning, match="damaged"),
        pytest.raises(ArgumentError, match="expected a readable checkpoint"),
    ):
        checkpoints.load_latest()


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "evil"),)

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"evil": Evil()})
    with (
        pytest.warns(CheckpointWarning, match="damaged"),
        pytest.raises(ArgumentError, match="expected a readable checkpoint"),
    ):
        checkpoints.load_latest()
    assert not (tmp_path / "evil").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file: object) -> None:
        file.write(b"half of the new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_leftovers_of_a_kill_are_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(1, {})
    (tmp_path / ".checkpoint_00000002_0.pt.123.tmp").write_bytes(b"half")
    checkpoints.load_latest()
    assert names(tmp_path) == [path.name]


def test_saving_a_round_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for index, value in ((1, 1), (2, 2), (2, 3)):
        checkpoints.save(index, {"value": value})
    assert checkpoints.load_latest() == (2, {"value": 3})
    assert len(names(tmp_path)) == 2
