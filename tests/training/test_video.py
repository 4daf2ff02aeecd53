from pathlib import Path

import numpy as np
import pytest
import torch

from diffplan.errors import ArgumentError, DiffplanError, FileError, ShapeError
from diffplan.training import film_strip, side_by_side, write_video


def video(length: int, shade: int, height: int = 4, width: int = 6) -> np.ndarray:
    frames = np.full((length, 3, height, width), shade, np.uint8)
    frames += np.arange(length, dtype=np.uint8)[:, None, None, None]
    return frames


def test_side_by_side_puts_every_pixel_in_its_place() -> None:
    both = side_by_side(video(3, 10), video(2, 50), gap=2)
    assert both.shape == (3, 4, 6 + 2 + 6, 3)
    for t in range(3):
        assert (both[t, :, :6] == 10 + t).all()
        assert (both[t, :, 6:8] == 255).all()
        assert (both[t, :, 8:] == 50 + min(t, 1)).all()


def test_film_strip_aligns_moments_in_columns() -> None:
    strip = film_strip([video(7, 10), video(3, 50)], every=2, gap=1)
    # Frames 0, 2, 4, 6 above 0, 2.
    assert strip.shape == (4 + 1 + 4, 4 * 7 - 1, 3)
    for column in range(4):
        left = 7 * column
        assert (strip[:4, left : left + 6] == 10 + 2 * column).all()
        below = 50 + 2 * column if column < 2 else 255
        assert (strip[5:, left : left + 6] == below).all()
    assert (strip[4] == 255).all()
    assert (strip[:, 6] == 255).all()


def test_floats_are_clipped_and_scaled() -> None:
    images = np.array([-0.5, 0.0, 0.5, 1.0, 2.0]).reshape(5, 1, 1, 1)
    frames = side_by_side(np.broadcast_to(images, (5, 2, 2, 3)))
    assert frames[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match="images: expected"):
        side_by_side(np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(ShapeError, match="expected one height"):
        side_by_side(video(2, 0), video(2, 0, height=5))
    with pytest.raises(ShapeError, match="expected one frame size"):
        film_strip([video(2, 0), video(2, 0, width=5)])
    with pytest.raises(ArgumentError, match="film_strip"):
        film_strip([])


SIZES = [(12, 64, 64), (1, 64, 64), (7, 33, 65), (5, 34, 35), (4, 1, 1), (3, 3, 5)]
"""Frames, height, width: also odd and tiny ones, and a single frame."""


@pytest.mark.parametrize(("length", "height", "width"), SIZES)
def test_a_gif_holds_the_frames(
    length: int, height: int, width: int, tmp_path: Path
) -> None:
    imageio = pytest.importorskip("imageio.v3")
    path = tmp_path / "new" / "video.gif"
    given = video(length, 10, height, width)
    given[:, 2, : height // 2, width // 2 :] = 200  # neither flipped nor turned
    write_video(path, given, fps=10)
    read = imageio.imread(path, index=None)
    np.testing.assert_array_equal(read, given.transpose(0, 2, 3, 1))


def test_a_gif_keeps_equal_neighbours(tmp_path: Path) -> None:
    imageio = pytest.importorskip("imageio.v3")
    write_video(tmp_path / "still.gif", np.zeros((4, 8, 8, 3), np.uint8))
    assert imageio.imread(tmp_path / "still.gif", index=None).shape == (4, 8, 8, 3)


@pytest.mark.parametrize("fps", [7.3, 10, 24, 30, 50])
def test_a_gif_has_the_speed_that_was_asked_for(fps: float, tmp_path: Path) -> None:
    imageio = pytest.importorskip("imageio.v3")
    write_video(tmp_path / "video.gif", video(25, 10), fps=fps)
    durations = [
        imageio.immeta(tmp_path / "video.gif", index=index)["duration"]
        for index in range(25)
    ]
    assert all(abs(each - 1000 / fps) < 10 for each in durations)
    assert abs(sum(durations) - 25 * 1000 / fps) <= 5


# imageio's own reader leaves pipes open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(("length", "height", "width"), SIZES)
def test_an_mp4_holds_the_frames(
    length: int, height: int, width: int, tmp_path: Path
) -> None:
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "video.mp4"
    given = video(length, 100, height, width)
    given[:, :, height // 2 :] = 200
    write_video(path, given, fps=10)
    frames = np.stack(imageio.mimread(path))
    assert frames.shape == (length, height, width, 3)
    assert imageio.get_reader(path).get_meta_data()["fps"] == 10
    # Lossy, but grey stays grey, away from the edge between the two.
    for row in (0, height - 1):
        expected = given[:, 0, row, 0].astype(int)
        assert np.abs(frames[:, row, 0, 0].astype(int) - expected).max() < 8


@pytest.mark.parametrize("ending", [".gif", ".mp4"])
def test_tensors_are_written_like_arrays(ending: str, tmp_path: Path) -> None:
    pytest.importorskip("imageio")
    floats = np.linspace(-0.5, 1.5, 2 * 3 * 8 * 8, dtype=np.float32)
    images = floats.reshape(2, 3, 8, 8)
    tensor = torch.from_numpy(images).requires_grad_()
    before = images.copy()
    for name, given in (("array", images), ("tensor", tensor), ("half", tensor.half())):
        write_video(tmp_path / f"{name}{ending}", given)
    np.testing.assert_array_equal(images, before)
    array, same, _ = (
        (tmp_path / f"{name}{ending}").read_bytes()
        for name in ("array", "tensor", "half")
    )
    assert array == same


IMAGES = np.zeros((2, 3, 8, 8), np.uint8)
WRONG = {
    "no frame": IMAGES[:0],
    "no height": IMAGES[:, :, :0],
    "no width": IMAGES[..., :0],
    "integers": IMAGES.astype(np.int64),
    "signed": IMAGES.astype(np.int8),
    "booleans": IMAGES.astype(bool),
    "complex": IMAGES.astype(complex),
    "text": IMAGES.astype(str),
    "integer tensor": torch.zeros(2, 3, 8, 8, dtype=torch.int32),
    "grey": np.zeros((2, 8, 8), np.uint8),
    "one channel": np.zeros((2, 1, 8, 8), np.uint8),
    "four channels": np.zeros((2, 8, 8, 4), np.uint8),
    "one picture": np.zeros((8, 8, 3), np.uint8),
    "both layouts": np.zeros((2, 3, 8, 3), np.uint8),
    "nan": np.full((2, 3, 8, 8), np.nan),
    "infinite": np.full((2, 3, 8, 8), np.inf, np.float32),
}


@pytest.mark.parametrize("ending", [".gif", ".mp4"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_images_are_refused_and_nothing_is_written(
    name: str, ending: str, tmp_path: Path
) -> None:
    with pytest.raises(DiffplanError, match="images: expected"):
        write_video(tmp_path / f"video{ending}", WRONG[name])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [0, -5, float("nan"), float("inf"), 1e9])
@pytest.mark.parametrize("ending", [".gif", ".mp4"])
def test_impossible_speeds_are_refused(fps: float, ending: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="fps: expected"):
        write_video(tmp_path / f"video{ending}", IMAGES, fps=fps)


@pytest.mark.parametrize("answer", [0, 2])
def test_a_failure_of_ffmpeg_is_an_error(
    answer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves an empty file or a shorter video, and says nothing."""
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    write = imageio.mimwrite

    def fail(file: Path, frames: list[np.ndarray], **options: object) -> None:
        if answer:
            write(file, frames[:answer], **options)
        else:
            file.write_bytes(b"")

    monkeypatch.setattr(imageio, "mimwrite", fail)
    with pytest.raises(FileError, match="ffmpeg wrote"):
        write_video(tmp_path / "video.mp4", video(3, 0, 8, 8))
    assert list(tmp_path.iterdir()) == []


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"expected a name in \.mp4 or \.gif"):
        write_video(tmp_path / "video.avi", video(2, 0))
