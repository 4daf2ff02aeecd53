"""What is read from a file is what was written, or an error that names the file."""

import hashlib
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from diffplan._files import seal, seal_tensors
from diffplan.errors import FileError
from diffplan.models.rssm import RSSM
from diffplan.training import (
    Checkpoints,
    CheckpointWarning,
    Episode,
    load_episode,
    save_episode,
)

WEIGHTS = torch.linspace(-1, 1, 64)


pytestmark = pytest.mark.filterwarnings("ignore::diffplan.training.CheckpointWarning")


def write_model(folder: Path) -> Path:
    torch.manual_seed(0)
    model = RSSM(
        (2,),
        1,
        belief_size=2,
        state_size=2,
        embedding_size=2,
        hidden_size=2,
        reward_hidden=2,
        vector_hidden=2,
    )
    model.save(folder / "model.safetensors")
    return folder / "model.safetensors"


def write_episode(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    numbers = [generator.normal(size=shape) for shape in ((6, 2), (5, 1), 5)]
    path = folder / "episode_000000.npz"
    save_episode(Episode(*numbers, initial_info={"start": 0.5}), path)
    return path


def write_checkpoint(folder: Path) -> Path:
    return Checkpoints(folder).save(3, {"weights": WEIGHTS, "rows": [1, 2.5, "three"]})


def read_checkpoint(path: Path) -> Any:
    return Checkpoints(path.parent).load_latest()


@dataclass(frozen=True)
class Kind:
    """One kind of file: how it is written and read, and its name in a seal, if any."""

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    name: str


KINDS = {
    "model": Kind(write_model, RSSM.load, "safetensors"),
    "episode": Kind(write_episode, load_episode, "diffplan.episode/2"),
    "checkpoint": Kind(write_checkpoint, read_checkpoint, "diffplan.checkpoint/2/3"),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def refused(kind: Kind, path: Path, data: bytes, match: str | None = None) -> None:
    """Expect a `FileError` that names the file (or its folder)."""
    path.write_bytes(data)
    with pytest.raises(FileError, match=match) as caught:
        kind.read(path)
    assert str(path.parent) in str(caught.value)


def flips(data: bytes, count: int) -> list[bytes]:
    """Return copies with one flipped bit each, in places all over the file."""
    generator = np.random.default_rng(0)
    places = generator.integers(0, 8 * len(data), count)
    # The seal is short and would hardly be hit.
    seal_bits = generator.integers(8 * (len(data) - 110), 8 * len(data), count // 4)
    changed = []
    for place in (*places, *seal_bits, 0, 8 * len(data) - 1):
        copy = bytearray(data)
        copy[place // 8] ^= 1 << (place % 8)
        changed.append(bytes(copy))
    return changed


def test_a_flipped_bit_is_noticed_wherever_it_is(kind: Kind, tmp_path: Path) -> None:
    path = kind.write(tmp_path)
    for data in flips(path.read_bytes(), 400):
        refused(kind, path, data)


def test_half_a_file_and_two_files_in_one_are_refused(
    kind: Kind, tmp_path: Path
) -> None:
    path = kind.write(tmp_path)
    whole = path.read_bytes()
    for length in (*range(0, len(whole), len(whole) // 40), len(whole) - 1):
        refused(kind, path, whole[:length])
    refused(kind, path, whole + whole)
    refused(kind, path, whole + b"\n")


def plain_zip(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("actions.npy", bytes(10**7))
    return buffer.getvalue()


def claim(*shape: int) -> bytes:
    """Return an `.npz` whose array says that it has this shape, and has 8 numbers."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    header = header.ljust(117) + "\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    return plain_zip(**{"actions.npy": array + bytes(32)})


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


FOREIGN: dict[str, bytes] = {
    "empty": b"",
    "text": b"no file of ours\n" * 20,
    "random": np.random.default_rng(1).bytes(3000),
    "pickle": pickle.dumps({"weights": [1, 2, 3]}),
    "zip": plain_zip(a=b"b"),
    "empty zip": plain_zip(),
    "bomb": bomb(),
    "claim": claim(10**12),
    "two claims": claim(10**12, 10**12),
    "negative": claim(-1),
    "tensor": saved(WEIGHTS),
    "legacy": pickle.dumps(119547037146038801333356),
    "number": saved(3),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_files_are_refused(kind: Kind, name: str, tmp_path: Path) -> None:
    path = kind.write(tmp_path)
    refused(kind, path, FOREIGN[name])


@pytest.mark.parametrize("name", FOREIGN)
def test_a_right_seal_does_not_make_the_content_right(
    kind: Kind, name: str, tmp_path: Path
) -> None:
    """Anybody can compute a checksum."""
    path = kind.write(tmp_path)
    refused(kind, path, seal(FOREIGN[name], kind.name)[0])


def test_a_file_of_another_kind_says_what_it_is(kind: Kind, tmp_path: Path) -> None:
    path = kind.write(tmp_path)
    for other in KINDS.values():
        if other is not kind:
            data = other.write(tmp_path / "other").read_bytes()
            words = f"{other.name}, not a {kind.name}"
            told = kind.read is load_episode and other.write is write_checkpoint
            match = words if told else None
            refused(kind, path, data, match)


def test_missing_files_and_folders_are_named(kind: Kind, tmp_path: Path) -> None:
    path = kind.write(tmp_path)
    path.unlink()
    if kind.read is read_checkpoint:
        assert kind.read(path) is None
    else:
        with pytest.raises(FileError, match=r"there is no such file"):
            kind.read(path)
    path.mkdir()
    with pytest.raises(FileError, match=str(tmp_path)):
        kind.read(path)


def test_what_does_not_fit_into_memory_is_not_read(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kind.write(tmp_path)
    monkeypatch.setattr(os, "sysconf", lambda name: 16)
    refused(kind, path, path.read_bytes())


def test_no_code_is_run(kind: Kind, tmp_path: Path) -> None:
    path = kind.write(tmp_path)
    made = tmp_path / "evil"

    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(made),)

    objects = io.BytesIO()
    np.savez(objects, observations=np.array([Evil()], object), actions=np.zeros(1))
    for content in (
        pickle.dumps(Evil()),
        objects.getvalue(),
        seal_tensors(Evil(), "any")[0],
    ):
        refused(kind, path, content)
        refused(kind, path, seal(content, kind.name)[0])
    assert not made.exists()


# What is particular to one kind


def with_checksum(data: bytes) -> bytes:
    """Return a file of safetensors with the checksum that it should have."""
    zeros = re.sub(rb'"sha256":"[^"]*"', b'"sha256":"' + b"0" * 64 + b'"', data)
    right = hashlib.sha256(zeros).hexdigest().encode()
    return zeros.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + right)


def altered(tmp_path: Path, match: str, **changes: Any) -> None:
    """Expect that a model with other content is refused, checksum and all."""
    path = write_model(tmp_path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    arguments = {**json.loads(metadata["arguments"]), **changes.get("config", {})}
    metadata |= {"arguments": json.dumps(arguments), **changes.get("metadata", {})}
    weights = {**load_file(path), **changes.get("weights", {})}
    for name in changes.get("without", ()):
        del weights[name]
    data = with_checksum(changes.get("data", lambda x: x)(save(weights, metadata)))
    refused(KINDS["model"], path, data, match)


def test_a_model_must_have_the_sizes_that_its_file_claims(tmp_path: Path) -> None:
    # Were it made before its weights are looked at: 12 terabytes.
    altered(tmp_path, "size mismatch", config={"belief_size": 10**6})
    altered(tmp_path, "reward_layers is 1000000000", config={"reward_layers": 10**9})
    altered(tmp_path, "belief_size", config={"belief_size": -1})
    altered(tmp_path, "colour", config={"colour": "red"})
    altered(tmp_path, "mean", weights={"observations.mean": torch.zeros(3)})
    altered(tmp_path, r"Missing key.*mean", without=["observations.mean"])
    altered(tmp_path, r"Unexpected key.*new", weights={"new": torch.zeros(3)})
    altered(tmp_path, "it is a Critic, not a RSSM", metadata={"kind": "Critic"})
    altered(tmp_path, "it is a model/9", metadata={"diffplan": "model/9"})


def test_the_numbers_of_a_model_are_where_its_header_says(tmp_path: Path) -> None:
    altered(tmp_path, "not fully covered", data=lambda data: data + bytes(8))
    # Twice the same numbers, which would take twice the memory.
    altered(tmp_path, "nvalid offset", data=moved)
    altered(tmp_path, "not fully covered", data=lambda data: data[:-4])


def moved(data: bytes) -> bytes:
    """Return a file two of whose tensors, of two numbers each, are in one place."""
    places = re.findall(rb'"shape":\[2\],"data_offsets":\[(\d+),(\d+)\]', data)
    (first, second), (third, fourth) = places[:2]
    found = b'"data_offsets":[' + third + b"," + fourth + b"]"
    other = b'"data_offsets":[' + first + b"," + second + b"]"
    return data.replace(found, other.ljust(len(found)), 1)


def test_loading_a_model_leaves_the_random_state_alone(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    before = torch.get_rng_state()
    model = RSSM.load(path)
    assert torch.equal(before, torch.get_rng_state())
    assert all(weight.requires_grad for weight in model.parameters())
    assert {weight.device.type for weight in model.state_dict().values()} == {"cpu"}


def test_other_programs_still_open_our_files(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    weights = RSSM.load(path).state_dict()
    read = load_file(path)
    assert read.keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in read.items())
    checkpoint = torch.load(write_checkpoint(tmp_path), weights_only=True)
    assert torch.equal(checkpoint["weights"], WEIGHTS)
    with np.load(write_episode(tmp_path)) as episode:
        assert episode["actions"].shape == (5, 1)


def test_a_checkpoint_under_another_number_is_not_taken(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(1, {"value": 1})
    path = checkpoints.save(2, {"value": 2})
    path.rename(tmp_path / path.name.replace("00000002", "00000007"))
    with pytest.warns(CheckpointWarning, match="checkpoint_00000007"):
        assert checkpoints.load_latest() == (1, {"value": 1})
