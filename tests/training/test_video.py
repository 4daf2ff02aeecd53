from pathlib import Path

import numpy as np
import pytest

from diffplan.errors import ArgumentError, ShapeError
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


def test_a_gif_holds_the_frames(tmp_path: Path) -> None:
    imageio = pytest.importorskip("imageio.v3")
    path = tmp_path / "new" / "video.gif"
    write_video(path, video(3, 10, 8, 8), fps=10)
    read = imageio.imread(path)
    assert read.shape == (3, 8, 8, 3)
    assert read[:, 0, 0, 0].tolist() == [10, 11, 12]


# imageio's own reader leaves pipes open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_mp4_holds_as_many_frames(tmp_path: Path) -> None:
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "video.mp4"
    write_video(path, video(12, 100, 64, 64), fps=10)
    frames = np.stack(imageio.mimread(path))
    assert frames.shape == (12, 64, 64, 3)
    # Lossy, but grey stays grey.
    assert abs(int(frames[5, 32, 32, 0]) - 105) < 6


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"expected a name in \.mp4 or \.gif"):
        write_video(tmp_path / "video.avi", video(2, 0))
