"""Files that are written whole, and that are read only if they are what was written.

A *sealed* file ends with a line that names its kind and a SHA-256 checksum of all that
stands before. Whatever else is found in its place (half of a file, a flipped bit, a
file of another kind or program) is one `FileError` that names the file. Behind the
content the seal disturbs nobody: `torch.load` and `numpy.load` still open the file.

A checksum tells damage, not intent. So what is inside is read as tensors and plain
values only, never as code, and never claims more memory than the file has bytes.
"""

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from diffplan.errors import FileError

_SEAL = re.compile(rb"\ndiffplan ([\w./-]{1,64}) sha256 ([0-9a-f]{64})\n\Z")
DAMAGED = (
    "it is damaged: content and checksum differ; take it from a copy, or delete it and "
    "write it again"
)
_LONGEST_SEAL = 160
_LONGEST_REASON = 300


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file that appears complete or not at all, even if the power fails.

    Args:
        path: Where; an existing file is replaced. Its folder is made if needed.
        write: Receives the open binary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The rename itself lives in the folder.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into a `FileError` about this file.

    Args:
        path: The file that is being read.
        expected: What it should be, "an episode".

    Raises:
        FileError: something was raised inside; a `FileError` passes as it is.
    """
    try:
        yield
    except FileError:
        raise
    # A file can hold anything, and so its readers can raise anything.
    except Exception as error:
        told = " ".join(str(error).split())[:_LONGEST_REASON]
        if not told or not isinstance(error, ValueError):
            told = f"{type(error).__name__} {told}".strip()
        raise FileError(
            f"path: expected {expected}, cannot read {path}: {told}"
        ) from error


def seal(content: bytes, kind: str) -> tuple[bytes, str]:
    """Return a sealed file's bytes and its checksum.

    Args:
        content: Of the file.
        kind: What it is, with a version: "diffplan.episode/1". Letters, digits and
            `._-/`, at most 64.

    Returns:
        Content and seal, and the checksum in 64 hexadecimal digits. It vouches for
        content and kind.
    """
    checksum = _checksum(content, kind.encode())
    return content + f"\ndiffplan {kind} sha256 {checksum}\n".encode(), checksum


def read_sealed(
    path: Path, kind: str, expected: str, older: Sequence[str] = ()
) -> tuple[bytes, str]:
    """Read a sealed file of one kind.

    Args:
        path: The file.
        kind: As it was written.
        expected: What it should be, for the message.
        older: Kinds that are read too: earlier versions, in which nothing of this one
            is missing or means something else.

    Returns:
        The content and its checksum.

    Raises:
        FileError: it is missing, damaged, larger than this machine's memory, or
            something else.
    """
    with reading(path, expected):
        size = size_in_memory(path)
        with path.open("rb") as file:
            # The end first: a file that is none of ours is not read into memory.
            file.seek(max(0, size - _LONGEST_SEAL))
            end = _SEAL.search(file.read(_LONGEST_SEAL))
            if end is None:
                raise ValueError(
                    "the seal at its end is missing: it was cut short, damaged, "
                    "or not written by this version of diffplan"
                )
            file.seek(0)
            content = file.read(size - len(end[0]))
        checksum = _checksum(content, end[1])
        if checksum.encode() != end[2]:
            raise ValueError(DAMAGED)
        if end[1].decode() not in (kind, *older):
            raise ValueError(f"it is a {end[1].decode()}, not a {kind}")
    return content, checksum


def seal_tensors(content: Any, kind: str) -> tuple[bytes, str]:
    """Return the bytes of a sealed file of tensors, and its checksum.

    Args:
        content: Nested dictionaries and lists of tensors and plain values.
        kind: What it is; see `seal`.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return seal(buffer.getvalue(), kind)


def load_tensors(
    path: Path, kind: str, expected: str, device: torch.device | str = "cpu"
) -> Any:
    """Read what `seal_tensors` sealed; code in the file is not run.

    Args:
        path: The file.
        kind: As it was written.
        expected: What it should be, for the message.
        device: Where the tensors go.

    Raises:
        FileError: see `read_sealed`, or the content is not tensors and plain values.
    """
    content, _ = read_sealed(path, kind, expected)
    with reading(path, expected):
        open_archive(content).close()
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)


def open_archive(content: bytes) -> zipfile.ZipFile:
    """Return a zip archive whose members, unpacked, are no larger than the archive.

    Raises:
        ValueError: a member is compressed, or they claim more than there is.
    """
    archive = zipfile.ZipFile(io.BytesIO(content))
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("its archive is compressed")
    claimed = sum(member.file_size for member in members)
    if claimed > len(content):
        raise ValueError(
            f"its archive claims {claimed} bytes and has {len(content)} bytes"
        )
    return archive


def _checksum(content: bytes, kind: bytes) -> str:
    digest = hashlib.sha256(content)
    digest.update(kind)
    return digest.hexdigest()


def size_in_memory(path: Path) -> int:
    """Return how many bytes a file has, if this machine can hold them.

    Raises:
        ValueError: it cannot, or there is no file, or nothing in it.
    """
    if not path.is_file():
        raise ValueError(
            "it is no regular file" if path.exists() else "there is no such file"
        )
    size = path.stat().st_size
    if size == 0:
        raise ValueError("it is empty")
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not known on this system
        return size
    if size > memory:
        raise ValueError(f"it has {size} bytes, the machine's memory {memory}")
    return size
