"""What was made from something else is made again; what is broken is noticed."""

import functools
import json
import os
from pathlib import Path

import pytest
from toy_paper import complete, finish, paper

from diffplan.errors import ArgumentError
from diffplan.training._lock import HOLDER, exclusive
from reproductions.common.experiment import Selection
from reproductions.common.stages import run_units
from reproductions.common.units import Unit


def write(directory: Path, text: str) -> None:
    """Write a model, and count the calls."""
    (directory / "model.txt").write_text(text)


def copy(directory: Path, model: Path) -> None:
    """Write what a model says."""
    (directory / "copy.txt").write_text((model / "model.txt").read_text())


def end_strangely() -> None:
    """Be killed by a signal without a name."""
    os.kill(os.getpid(), 35)


def chain(root: Path, text: str) -> list[Unit]:
    model, after = root / "model", root / "after"
    return [
        Unit("after", functools.partial(copy, directory=after, model=model), after,
             ("model",)),
        Unit("model", functools.partial(write, directory=model, text=text), model),
    ]  # fmt: skip


def delete(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def test_what_was_made_from_another_model_is_made_again(tmp_path: Path) -> None:
    run_units(chain(tmp_path, "old"))
    with pytest.raises(ArgumentError, match="made again too"):
        run_units(chain(tmp_path, "new"))
    delete(tmp_path / "model")
    said: list[str] = []
    assert run_units(chain(tmp_path, "new"), report=said.append).complete
    assert (tmp_path / "after" / "copy.txt").read_text() == "new"
    assert "after: started again: model changed since" in said
    # The same model once more: what is made from it stands.
    delete(tmp_path / "model")
    said.clear()
    assert run_units(chain(tmp_path, "new"), report=said.append).complete
    started = [line for line in said if "started" in line]
    assert started == ["model: started"]


def test_half_of_a_unit_is_not_resumed_with_another_model(tmp_path: Path) -> None:
    units = finish(tmp_path, [0])
    model, score = units
    for name in ("done.json", "score.csv"):
        (score.directory / name).unlink()
    (score.directory / "checkpoint.txt").write_text("of the old model")
    assert complete(score, units) == ""
    assert (score.directory / "checkpoint.txt").exists()
    (score.directory / "done.json").unlink()
    delete(model.directory)
    new = paper(tmp_path).units(
        "cpu", Selection(seeds=[0], settings=["model.size=4"]), tmp_path / "cpu"
    )
    complete(new[0], new)
    assert complete(new[1], new) == "model/seed_0 changed since"
    assert not (score.directory / "checkpoint.txt").exists()


def test_work_of_an_earlier_version_stands(tmp_path: Path) -> None:
    """Its records tell neither files nor inputs."""
    units = finish(tmp_path, [0])
    for unit in units:
        path = unit.directory / "done.json"
        record = json.loads(path.read_text())
        del record["files"], record["inputs"]
        path.write_text(json.dumps(record))
        (unit.directory / "inputs.json").unlink()
    outcome = run_units(units)
    assert sorted(outcome.done) == ["model/seed_0", "score/seed_0"]
    assert "files" not in json.loads(path.read_text())


@pytest.mark.parametrize("content", [None, "", "seed,trial,score\n0,0", "\0" * 90])
def test_a_damaged_file_is_made_again(content: str | None, tmp_path: Path) -> None:
    units = finish(tmp_path, [0])
    path = units[1].directory / "score.csv"
    before = path.read_text()
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert not units[1].is_done()
    assert "score.csv" in complete(units[1], units)
    assert path.read_text() == before
    assert units[1].is_done()
    if content is not None:
        assert path.with_name("score.csv.damaged").read_text() == content


@pytest.mark.parametrize("content", ["", "{", "[1]"])
@pytest.mark.parametrize("name", ["done.json", "settings.json", "inputs.json"])
def test_a_damaged_record_is_written_again(
    name: str, content: str, tmp_path: Path
) -> None:
    units = finish(tmp_path, [0])
    path = units[1].directory / name
    before = json.loads(path.read_text())
    path.write_text(content)
    assert units[1].is_done() == (name != "done.json")
    complete(units[1], units)
    assert json.loads(path.read_text()) == before
    assert units[1].is_done()


def test_work_whose_settings_are_lost_fails_alone(tmp_path: Path) -> None:
    units = finish(tmp_path, [0])
    for name in ("done.json", "settings.json", "inputs.json"):
        (units[1].directory / name).write_text("")
    outcome = run_units(units)
    assert outcome.done == ["model/seed_0"]
    assert "delete this folder" in outcome.failed["score/seed_0"]


def test_leftovers_of_killed_processes_go(tmp_path: Path) -> None:
    units = finish(tmp_path, [0])
    leftover = units[0].directory / ".model.txt.4711.tmp"
    leftover.write_text("half")
    complete(units[0], units)
    assert not leftover.exists()


def test_units_share_no_folder(tmp_path: Path) -> None:
    units = [Unit("a", print, tmp_path), Unit("b", print, tmp_path / "b")]
    with pytest.raises(ArgumentError, match="folder of its own"):
        run_units(units)


def test_any_signal_has_words(tmp_path: Path) -> None:
    strange = Unit("strange", functools.partial(end_strangely), tmp_path / "strange")
    assert run_units([strange]).failed == {"strange": "killed by signal 35"}


def test_one_process_at_a_time(tmp_path: Path) -> None:
    held = f"in use by process {os.getpid()} "
    with (
        exclusive(tmp_path),
        pytest.raises(ArgumentError, match=held),
        exclusive(tmp_path),
    ):
        pass
    with exclusive(tmp_path):
        pass
    assert not (tmp_path / HOLDER).exists()


def test_a_killed_holder_is_told_and_no_obstacle(tmp_path: Path) -> None:
    holder = {"process": 4711, "host": "here", "start": "then", "command": "run"}
    (tmp_path / HOLDER).write_text(json.dumps(holder))
    said: list[str] = []
    with exclusive(tmp_path, say=said.append):
        pass
    assert len(said) == 1
    assert "process 4711 on here" in said[0]
    assert "killed" in said[0]
