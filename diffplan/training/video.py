"""Pictures of what an agent saw beside what it imagined."""

import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor

from diffplan._checks import missing
from diffplan._files import write_atomically
from diffplan.errors import (
    ArgumentError,
    FileError,
    NonFiniteError,
    ShapeError,
    TensorTypeError,
)

_FRAME_AXES = 4

_RATES = {".mp4": (0.01, 500), ".gif": (0.01, 50)}
"""Frames per second, the fewest and the most, that a format holds."""


def to_frames(images: np.ndarray | Tensor) -> np.ndarray:
    """Return images as uint8 `[T, H, W, 3]`, ready to be written.

    Args:
        images: `[T, 3, H, W]` or `[T, H, W, 3]`, uint8 in 0 … 255, or floats in 0 … 1
            (clipped, since a decoder may overshoot). A tensor may be on any device.

    Raises:
        TensorTypeError: other numbers, whose range nobody knows.
        ShapeError: neither layout fits, or both do; or there is no picture.
        NonFiniteError: NaN or infinity.
    """
    if isinstance(images, Tensor):
        # NumPy has no bfloat16.
        wide = images.float() if images.is_floating_point() else images
        images = wide.detach().cpu().numpy()
    if not isinstance(images, np.ndarray) or (
        images.dtype != np.uint8 and images.dtype.kind != "f"
    ):
        got = getattr(images, "dtype", type(images).__name__)
        raise TensorTypeError(
            "images: expected an array or tensor of uint8 in 0 … 255, or of floats in "
            f"0 … 1, got {got}"
        )
    last = images.ndim == _FRAME_AXES and images.shape[-1] == 3
    first = images.ndim == _FRAME_AXES and images.shape[1] == 3
    if first == last or images.size == 0:
        raise ShapeError(
            "images: expected [T, 3, H, W] or [T, H, W, 3] with at least one picture, "
            f"got {list(images.shape)}" + (", which may be either" if first else "")
        )
    frames = images if last else images.transpose(0, 2, 3, 1)
    if frames.dtype == np.uint8:
        return frames
    if not np.isfinite(frames).all():
        raise NonFiniteError("images: expected finite numbers, got NaN or infinity")
    return np.rint(np.clip(frames, 0.0, 1.0) * 255).astype(np.uint8)


def side_by_side(*videos: np.ndarray | Tensor, gap: int = 2) -> np.ndarray:
    """Return one video that shows several, from left to right.

    A shorter video holds its last frame until the longest ends.

    Args:
        *videos: See `to_frames`; of one height.
        gap: White pixels between them.

    Returns:
        uint8 `[T, H, W', 3]`.
    """
    frames = [to_frames(video) for video in videos]
    if len({video.shape[1] for video in frames}) != 1:
        heights = [video.shape[1] for video in frames]
        raise ShapeError(f"videos: expected one height, got {heights}")
    length = max(len(video) for video in frames)
    white = np.full((length, frames[0].shape[1], gap, 3), 255, np.uint8)
    parts: list[np.ndarray] = []
    for video in frames:
        last = np.repeat(video[-1:], length - len(video), axis=0)
        parts += [white, np.concatenate([video, last])]
    return np.concatenate(parts[1:], axis=2)


def film_strip(
    rows: Sequence[np.ndarray | Tensor], every: int = 1, gap: int = 2
) -> np.ndarray:
    """Return a still picture: one row of frames for each video, time to the right.

    With reality above the imagined plan, a column compares the same moment. A shorter
    video leaves white places.

    Args:
        rows: Videos, see `to_frames`; of one frame size.
        every: Frames between two columns.
        gap: White pixels between frames.

    Returns:
        uint8 `[H', W', 3]`.
    """
    if every < 1 or not rows:
        raise ArgumentError(
            f"film_strip: expected rows and every ≥ 1, got {len(rows)} and {every}"
        )
    videos = [to_frames(video)[::every] for video in rows]
    sizes = {video.shape[1:3] for video in videos}
    if len(sizes) != 1:
        raise ShapeError(f"rows: expected one frame size, got {sorted(sizes)}")
    height, width = sizes.pop()
    columns = max(len(video) for video in videos)
    shape = (
        len(videos) * (height + gap) - gap,
        columns * (width + gap) - gap,
        3,
    )
    picture = np.full(shape, 255, np.uint8)
    for row, video in enumerate(videos):
        for column, frame in enumerate(video):
            top, left = row * (height + gap), column * (width + gap)
            picture[top : top + height, left : left + width] = frame
    return picture


def write_video(path: Path | str, images: np.ndarray | Tensor, fps: float = 25) -> None:
    """Write a video; the name's ending chooses the format, `.mp4` or `.gif`.

    An `.mp4` of odd height or width keeps all its pixels, in a variant of H.264 (4:4:4)
    that fewer players show. A `.gif` shows each frame for a multiple of 10 ms, and all
    of them as long as asked for.

    Args:
        path: Where; its folder is made if needed. A file appears complete or not at
            all.
        images: See `to_frames`.
        fps: Frames per second, 0.01 … 500; in a `.gif` at most 50, since players
            show faster ones slowly.

    Raises:
        MissingDependencyError: imageio (for `.mp4` also imageio-ffmpeg) is missing.
        ArgumentError: another ending or frame rate; wrong images, see `to_frames`.
        FileError: ffmpeg did not write what it was given.
    """
    path = Path(path)
    if path.suffix not in (".mp4", ".gif"):
        raise ArgumentError(f"path: expected a name in .mp4 or .gif, got {path.name}")
    slowest, fastest = _RATES[path.suffix]
    if not slowest <= fps <= fastest:
        raise ArgumentError(
            f"fps: expected {slowest} … {fastest} for {path.name}, got {fps}"
        )
    frames = to_frames(images)
    try:
        import imageio.v2  # noqa: F401

        if path.suffix == ".mp4":
            import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise missing("videos need imageio", "suite") from error
    data = _gif(frames, fps) if path.suffix == ".gif" else _mp4(frames, fps, path)
    write_atomically(path, lambda file: file.write(data))


def _mp4(frames: np.ndarray, fps: float, path: Path) -> bytes:
    """Return the bytes of an `.mp4`, once its frames have been counted."""
    import imageio.v2 as imageio
    import imageio_ffmpeg

    height, width = frames.shape[1:3]
    # 4:2:0 halves the colours' resolution, which odd sizes do not allow.
    pixels = "yuv420p" if height % 2 == width % 2 == 0 else "yuv444p"
    with TemporaryDirectory() as folder:
        file = Path(folder) / "video.mp4"
        # Sizes that are no multiple of 16 are kept as they are.
        options: dict[str, Any] = {"fps": fps, "macro_block_size": 1}
        try:
            imageio.mimwrite(file, list(frames), pixelformat=pixels, **options)
            # A failure of ffmpeg itself leaves a file of 0 bytes and no error.
            written, _ = imageio_ffmpeg.count_frames_and_secs(str(file))
        except (RuntimeError, OSError) as error:
            raise FileError(f"path: ffmpeg wrote no video for {path}: {error}") from (
                error
            )
        if written != len(frames):
            raise FileError(
                f"path: ffmpeg wrote {written} of {len(frames)} frames for {path}"
            )
        return file.read_bytes()


def _gif(frames: np.ndarray, fps: float) -> bytes:
    """Return the bytes of a `.gif`, joined from pictures that are encoded one by one.

    Encoded together, equal neighbours would become one frame (Pillow).
    """
    import imageio.v2 as imageio

    # Hundredths of a second; rounded so that no error adds up.
    ends = [round(100 * number / fps) for number in range(len(frames) + 1)]
    height, width = frames.shape[1:3]
    parts = [
        b"GIF89a" + struct.pack("<HH", width, height) + bytes(3),
        b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + bytes(3),  # for ever
    ]
    for frame, (begin, end) in zip(frames, pairwise(ends), strict=True):
        picture: bytes = imageio.imwrite("<bytes>", frame, format="gif")
        # Behind the signature: width, height, flags, background, aspect; a palette.
        size = picture[10] & 7
        start = 13 + 3 * (2 << size)
        palette, image = picture[13:start], picture[start:-1]
        if image[:1] != b",":
            raise FileError("path: imageio wrote a .gif that is not understood here")
        # The picture's palette becomes the frame's own.
        flags = (image[9] & 0x40) | 0x80 | size
        parts += [
            b"\x21\xf9\x04\x04" + struct.pack("<H", end - begin) + bytes(2),
            image[:9] + bytes([flags]) + palette + image[10:],
        ]
    return b"".join([*parts, b";"])
