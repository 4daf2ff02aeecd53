"""What a run folder tells about its units, while they run and afterwards."""

import argparse
import functools
import json
import os
import re
import sys
from pathlib import Path

import pytest
from toy_paper import finish, paper

from diffplan.errors import ArgumentError, FileError, MissingDependencyError
from diffplan.training._lock import exclusive, held
from reproductions.common.command import DONE, WRONG, Command
from reproductions.common.engines import Local, add_engine_options, engine_of
from reproductions.common.progress import GRID, Grid, show_status, summary
from reproductions.common.stages import run_units
from reproductions.common.units import Unit


def fail() -> None:
    """Raise."""
    raise ArgumentError("wind: expected none, got a storm")


def half(directory: Path) -> None:
    """Say how far it is, and be killed."""
    sys.stderr.write("round 4/16  loss 3\n")
    sys.stderr.flush()
    os.kill(os.getpid(), 9)


def units_of(root: Path) -> list[Unit]:
    return [
        *finish(root, [0]),
        Unit("bad", functools.partial(fail), root / "bad"),
        Unit("after", functools.partial(fail), root / "after", ("bad",)),
        Unit("killed", functools.partial(half, directory=root / "k"), root / "k"),
        Unit("new", functools.partial(fail), root / "new"),
    ]


def test_the_run_folder_tells_what_became_of_each_unit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    *units, new = units_of(tmp_path)
    run_units(units, report=said.append)
    # A line for each change and no other.
    assert len(said) == len(set(said))
    changes = [line for line in said if line.startswith(("bad", "after", "killed"))]
    kinds = [re.sub(r"after \d.*|, because.*", "", line) for line in changes]
    assert sorted(kinds) == [
        *("after: not started", "bad: failed ", "bad: started"),
        *("killed: failed ", "killed: started"),
    ]
    Grid([*units, new], {"new": 60.0}, 2).save(tmp_path)
    rows = {row.name: row for row in Grid.load(tmp_path).rows()}
    assert {name: row.state for name, row in rows.items()} == {
        "model/seed_0": "done",
        "score/seed_0": "done",
        "bad": "failed",
        "after": "not started",
        "killed": "failed",
        "new": "waiting",
    }
    assert "got a storm (see " in rows["bad"].note
    assert str(tmp_path / "bad" / "log.txt") in rows["bad"].note
    assert "killed by SIGKILL" in rows["killed"].note
    assert rows["killed"].progress == "4 of 16"
    with (tmp_path / "k" / "log.txt").open("a") as log:
        log.write("round 8/16\n")
    (tmp_path / "k" / "seconds.txt").write_text("20\n")
    (tmp_path / "k" / "error.txt").unlink()
    with exclusive(tmp_path / "k"):
        grid = Grid.load(tmp_path)
        (row,) = (row for row in grid.rows() if row.name == "killed")
        assert (row.state, row.progress) == ("running", "8 of 16")
        assert row.left == pytest.approx(20, abs=2)  # half of it took 20 s
        words = summary(grid, grid.rows())
    expected = (
        r"2 of 6 done, 1 failed, 1 running, 1 waiting, 1 not started, about .* left"
    )
    assert re.fullmatch(expected, words)
    show_status(tmp_path, said.append)
    assert "4 of 16" not in capsys.readouterr().out
    assert said[-1].endswith("no command works in it")


def test_status_looks_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, where = Command(paper(tmp_path / "home")), ["--directory", str(tmp_path)]
    assert command.main(["status", *where]) != DONE
    assert GRID in capsys.readouterr().err
    units = finish(tmp_path, [0])
    Grid(units, {}, 2).save(tmp_path / "cpu")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with exclusive(tmp_path / "cpu"):
        assert command.main(["status", *where]) == DONE
    captured = capsys.readouterr()
    assert "2 of 2 done" in captured.out
    assert f"process {os.getpid()} on " in captured.err
    after = {path for path in tmp_path.rglob("*.*") if "lock" not in path.name}
    assert after <= set(before)
    assert command.main(["status", "--seeds", "0", *where]) == WRONG


def test_a_dead_holder_holds_nothing(tmp_path: Path) -> None:
    assert held(tmp_path) is None
    with exclusive(tmp_path):
        found = held(tmp_path)
        assert found is not None
        assert found["process"] == os.getpid()
    (tmp_path / ".lock.json").write_text(json.dumps({"process": 4711}))
    assert held(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{}", '{"workers": 2, "units": [1]}'])
def test_a_broken_grid_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / GRID).write_text(content)
    with pytest.raises(FileError, match=GRID):
        Grid.load(tmp_path)


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_engine_options(parser)
    return parser.parse_args(arguments)


def test_processes_of_this_machine_are_the_default() -> None:
    engine = engine_of(options("--workers", "3", "--cpus", "2"))
    assert isinstance(engine, Local)
    assert (engine.workers, engine.cpus) == (3, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--address", "here:1"], "--address: local has no use for it"),
        (["--slurm", "partition=gpu"], "--slurm: local has no use"),
        (["--engine", "slurm", "--workers", "2"], "--workers: slurm has no use"),
        (["--engine", "ray", "--address", "a:1", "--workers", "2"], "at --address"),
        (["--gpus", "1"], "shows every GPU to each"),
        (["--cpus", "0"], "at least 1"),
        (["--workers", "0"], "workers: expected"),
        (["--engine", "slurm", "--gpus", "0.5"], "whole ones"),
        (["--engine", "slurm", "--slurm", "partition"], "expected key=value"),
        (["--engine", "slurm", "--slurm", "cluster=debug"], "slurm or local"),
    ],
)
def test_options_without_a_use_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        engine_of(options(*arguments))


@pytest.mark.parametrize(("engine", "module"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_absent_engine_says_how_to_install_it(
    engine: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"PATH\[{engine}\]"):
        engine_of(options("--engine", engine))
