"""Pictures of what an agent saw beside what it imagined."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffplan.errors import ArgumentError, MissingDependencyError, ShapeError

FRAME_AXES = 4


def to_frames(images: np.ndarray) -> np.ndarray:
    """Return images as uint8 `[T, H, W, 3]`, ready to be written.

    Args:
        images: `[T, 3, H, W]` or `[T, H, W, 3]`, uint8 in 0 … 255, or floats in 0 … 1
            (clipped, since a decoder may overshoot).

    Raises:
        ShapeError: neither layout fits.
    """
    if images.ndim == FRAME_AXES and images.shape[-1] == 3:
        frames = images
    elif images.ndim == FRAME_AXES and images.shape[1] == 3:
        frames = images.transpose(0, 2, 3, 1)
    else:
        raise ShapeError(
            f"images: expected [T, 3, H, W] or [T, H, W, 3], got {list(images.shape)}"
        )
    if frames.dtype == np.uint8:
        return frames
    return np.rint(np.clip(frames, 0.0, 1.0) * 255).astype(np.uint8)


def side_by_side(*videos: np.ndarray, gap: int = 2) -> np.ndarray:
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


def film_strip(rows: Sequence[np.ndarray], every: int = 1, gap: int = 2) -> np.ndarray:
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


def write_video(path: Path | str, images: np.ndarray, fps: int = 25) -> None:
    """Write a video; the name's ending chooses the format, `.mp4` or `.gif`.

    Args:
        path: Where; its folder is made if needed.
        images: See `to_frames`.
        fps: Frames per second.

    Raises:
        MissingDependencyError: imageio (for `.mp4` also imageio-ffmpeg) is missing.
        ArgumentError: another ending.
    """
    path = Path(path)
    if path.suffix not in (".mp4", ".gif"):
        raise ArgumentError(f"path: expected a name in .mp4 or .gif, got {path.name}")
    try:
        import imageio.v2 as imageio

        if path.suffix == ".mp4":
            import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "videos need imageio: pip install diffplan[suite]"
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = to_frames(images)
    if path.suffix == ".gif":
        imageio.mimsave(path, list(frames), duration=1000 / fps, loop=0)
        return
    # Sizes that are no multiple of 16 are kept as they are.
    imageio.mimsave(path, list(frames), fps=fps, macro_block_size=1)
