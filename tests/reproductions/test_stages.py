"""Units of work are done once, resumed when killed, and fail alone."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffplan.errors import ArgumentError
from reproductions.common import worker
from reproductions.common.stages import DONE, LOG, Unit, run_units

ROOT = Path(__file__).parents[2]


def write(directory: Path, text: str) -> None:
    """Append a line, so that repeated calls can be counted."""
    with (directory / "calls.txt").open("a") as file:
        file.write(text + "\n")


def fail() -> None:
    """Raise."""
    raise ArgumentError("wind: expected none, got a storm")


def die_once(directory: Path) -> None:
    """Count to three, killed without warning after two the first time."""
    state = directory / "state.txt"
    for step in range(int(state.read_text()) if state.exists() else 0, 3):
        if step == 2 and not (directory / "died").exists():
            (directory / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        write(directory, str(step))
        state.write_text(str(step + 1))


def wait(directory: Path) -> None:
    """Say that it began, then sleep; an interruption leaves a trace."""
    (directory / "pid").write_text(str(os.getpid()))
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        (directory / "saved").touch()
        raise


def unit(root: Path, name: str, text: str = "a", needs: tuple[str, ...] = ()) -> Unit:
    folder = root / name
    work = functools.partial(write, directory=folder, text=text)
    return Unit(name, work, folder, needs)


def calls(root: Path, name: str) -> list[str]:
    return (root / name / "calls.txt").read_text().split()


def test_units_run_once_each_after_what_they_need(tmp_path: Path) -> None:
    units = [unit(tmp_path, "second", needs=("first",)), unit(tmp_path, "first")]
    said: list[str] = []
    assert run_units(units, report=said.append).done == ["first", "second"]
    order = [line for line in said if "started" in line]
    assert order == ["first: started", "second: started"]
    assert run_units(units).done == ["second", "first"]
    assert calls(tmp_path, "first") == calls(tmp_path, "second") == ["a"]


def test_done_says_where_the_work_was_made(tmp_path: Path) -> None:
    run_units([unit(tmp_path, "first")])
    record = json.loads((tmp_path / "first" / DONE).read_text())
    assert record["settings"] == {"text": "a"}
    assert {"wall_seconds", "versions", "source", "hardware"} <= set(record)
    assert record["hardware"]["threads"] == 1


def test_a_failure_costs_only_what_needs_it(tmp_path: Path) -> None:
    units = [
        Unit("bad", functools.partial(fail), tmp_path / "bad"),
        unit(tmp_path, "after", needs=("bad",)),
        unit(tmp_path, "last", needs=("after",)),
        unit(tmp_path, "good"),
    ]
    outcome = run_units(units)
    assert outcome.done == ["good"]
    assert not outcome.complete
    assert "wind: expected none, got a storm" in outcome.failed["bad"]
    assert outcome.blocked == {"after": "bad", "last": "after"}
    assert "Traceback" in (tmp_path / "bad" / LOG).read_text()


def test_a_killed_unit_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    units = [Unit("killed", functools.partial(die_once, directory=folder), folder)]
    assert run_units(units).failed == {"killed": "killed by SIGKILL"}
    assert run_units(units).complete
    assert calls(tmp_path, "killed") == ["0", "1", "2"]


def test_a_kill_loses_no_time_of_a_unit(tmp_path: Path) -> None:
    seconds = tmp_path / "seconds.txt"
    killed = (
        "import os, pathlib, time\n"
        "from reproductions.common import worker\n"
        "worker._REFRESH = 0.05\n"
        f"with worker._timed(pathlib.Path({str(seconds)!r})):\n"
        "    time.sleep(1.0)\n"
        "    os._exit(1)\n"
    )
    for _ in range(2):
        command = [sys.executable, "-c", killed]
        assert subprocess.run(command, cwd=ROOT).returncode == 1
    with worker._timed(seconds):
        time.sleep(0.1)
    *sessions, last = map(float, seconds.read_text().split())
    assert [0.8 <= each <= 1.5 for each in sessions] == [True, True]
    assert 0.1 <= last < 0.8


def test_other_settings_are_refused(tmp_path: Path) -> None:
    run_units([unit(tmp_path, "first", "a")])
    with pytest.raises(ArgumentError, match="text was 'a' and is 'b'"):
        run_units([unit(tmp_path, "first", "b")])


@pytest.mark.parametrize("needs", [("first",), ("unknown",)], ids=["itself", "nobody"])
def test_needs_must_make_sense(tmp_path: Path, needs: tuple[str, ...]) -> None:
    with pytest.raises(ArgumentError, match="no circle"):
        run_units([unit(tmp_path, "first", needs=needs)])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killing_the_program_ends_its_workers(
    tmp_path: Path, number: signal.Signals
) -> None:
    script = tmp_path / "program.py"
    tests = Path(__file__).parent
    script.write_text(
        "import functools, pathlib, sys\n"
        f"sys.path[:0] = [{str(tests)!r}, {str(tests.parents[1])!r}]\n"
        "from reproductions.common.stages import Unit, run_units\n"
        "from test_stages import wait\n"
        "if __name__ == '__main__':\n"
        f"    folder = pathlib.Path({str(tmp_path / 'unit')!r})\n"
        "    work = functools.partial(wait, directory=folder)\n"
        "    run_units([Unit('unit', work, folder)])\n"
    )
    program = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL)
    pid = wait_for(tmp_path / "unit" / "pid")
    program.send_signal(number)
    program.wait(30)
    assert ends(int(pid))
    assert (tmp_path / "unit" / "saved").exists() == (number == signal.SIGTERM)
    assert not (tmp_path / "unit" / DONE).exists()


def wait_for(path: Path) -> str:
    """Return the file's text as soon as it has one."""
    for _ in range(600):
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.1)
    raise TimeoutError(path)


def ends(pid: int) -> bool:
    """Return whether a process is gone within ten seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False
