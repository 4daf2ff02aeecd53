"""Grids on each engine end complete, whatever dies on the way."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import fake_slurm
import pytest
from grid_units import (
    COMPLETE,
    attempts,
    grid,
    rounds,
    trained,
    wait_until,
)

from reproductions.common.engines import Engine, Local, Ray, Slurm
from reproductions.common.stages import Unit, run_units

REPOSITORY = Path(__file__).parents[2]
SIMULATED = {"cluster": "local", "timeout_min": "5"}


def engine(name: str) -> Engine:
    if name == "local":
        return Local()
    if name == "ray":
        pytest.importorskip("ray")
        return Ray(workers=2)
    pytest.importorskip("submitit")
    if name == "slurm":
        return Slurm(options=SIMULATED)
    return Slurm(options={"partition": "gpu", "timeout_min": "30"})


def later(act: Callable[[], object]) -> threading.Thread:
    """Start a thread that acts while the main thread runs units."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


each_engine = pytest.mark.parametrize("name", ["local", "ray", "slurm"])


PROGRAM = """
import sys
from pathlib import Path
from grid_units import grid
from test_engines import engine, run_units

root = Path(sys.argv[1])
units = grid(root, float(sys.argv[3]))
run_units(units, engine(sys.argv[2]), report=print, directory=root)
"""


def program(
    root: Path, name: str, seconds: float = 0.3
) -> tuple[list[str], dict[str, str]]:
    """Return a command that runs a grid, and its environment."""
    places = [REPOSITORY, REPOSITORY / "tests", Path(__file__).parent]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    command = [sys.executable, "-c", PROGRAM, str(root), name, str(seconds)]
    return command, environment


@pytest.mark.slow
@each_engine
def test_an_interrupted_grid_is_completed(name: str, tmp_path: Path) -> None:
    """The command is interrupted once, as by Ctrl-C, and given again."""
    # Rounds long enough that the interruption meets the first unit on a busy machine.
    command, environment = program(tmp_path, name, seconds=1.5)
    units = grid(tmp_path, seconds=1.5)
    # As a shell starts a program in the background: deaf to Ctrl-C, with its children.
    deaf = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen(command, env=environment, preexec_fn=deaf)
    wait_until(lambda: len(rounds(units[0])) >= 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    assert not units[0].is_done()
    assert subprocess.run(command, env=environment, timeout=120).returncode == 0
    assert all(unit.is_done() for unit in units)
    assert [rounds(unit) for unit in units[:2]] == [COMPLETE, COMPLETE]
    assert len(attempts(units[0])) == 2


@pytest.fixture
def two_nodes() -> Iterator[tuple[object, object]]:
    """Return a cluster of Ray and the second of its two machines."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    yield cluster, second
    cluster.shutdown()


@pytest.mark.slow
def test_a_machine_that_dies_loses_no_unit(
    two_nodes: tuple[object, object], tmp_path: Path
) -> None:
    cluster, second = two_nodes
    units = trained(tmp_path, 8, seconds=0.6)
    there = second.node_id

    def on_second() -> list[Unit]:
        return [
            unit
            for unit in units
            if not unit.is_done()
            and [line[1] for line in attempts(unit)] == [there]
            and len(rounds(unit)) == 2
        ]

    def kill() -> None:
        wait_until(lambda: sum(unit.is_done() for unit in units) >= 3)
        wait_until(on_second)
        cluster.remove_node(second, allow_graceful=False)

    killer = later(kill)
    said: list[str] = []
    outcome = run_units(units, Ray(cluster.address), report=said.append)
    killer.join(60)
    assert outcome.complete, outcome.failed
    assert len(outcome.done) == 8
    assert [rounds(unit) for unit in units] == [COMPLETE] * 8
    twice = [unit for unit in units if len(attempts(unit)) > 1]
    assert len(twice) == 1
    first, then = attempts(twice[0])
    assert first[1] == there != then[1]
    assert any("runs again on" in line for line in said)


@pytest.mark.slow
@each_engine
def test_a_unit_that_is_told_to_leave_saves(name: str, tmp_path: Path) -> None:
    """SIGTERM: Ray starts it again by itself, the others with the next command."""
    (unit,) = trained(tmp_path, 1)

    def terminate() -> None:
        wait_until(lambda: len(rounds(unit)) >= 2)
        os.kill(int(attempts(unit)[0][0]), signal.SIGTERM)

    later(terminate)
    outcome = run_units([unit], engine(name))
    if name != "ray":
        assert "interrupted" in outcome.failed[unit.name] or name == "slurm"
        assert not unit.is_done()
        outcome = run_units([unit], engine(name))
    assert outcome.complete
    assert rounds(unit) == COMPLETE
    assert len(attempts(unit)) == 2
    assert len((unit.directory / "seconds.txt").read_text().split()) == 2


@pytest.mark.slow
def test_slurm_queues_a_unit_again_that_has_to_give_way(tmp_path: Path) -> None:
    """As before the end of its time: the signal that submitit asks Slurm for."""
    pytest.importorskip("submitit")
    (unit,) = trained(tmp_path, 1)

    def preempt() -> None:
        wait_until(lambda: len(rounds(unit)) >= 2)
        process = int(attempts(unit)[0][0])
        os.kill(process, signal.SIGTERM)
        os.kill(process, signal.SIGUSR2)

    later(preempt)
    outcome = run_units([unit], Slurm(options=SIMULATED))
    assert outcome.complete
    assert rounds(unit) == COMPLETE
    assert len(attempts(unit)) == 2


def fill_the_disk() -> None:
    """Write where nothing fits."""
    with Path("/dev/full").open("w") as file:
        file.write("a result")


@pytest.mark.slow
@each_engine
def test_a_full_disk_is_told_and_costs_one_unit(name: str, tmp_path: Path) -> None:
    full = Unit("full", partial(fill_the_disk), tmp_path / "full")
    (other,) = trained(tmp_path, 1, seconds=0.0)
    outcome = run_units([full, other], engine(name))
    assert "the disk is full" in outcome.failed["full"]
    assert outcome.done == [other.name]


@pytest.mark.slow
def test_a_second_command_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    """And the first, told to end, ends as one that can be given again."""
    where = ["--preset", "smoke", "--directory", str(tmp_path)]
    command = [sys.executable, "-m", "reproductions.dcem", *where]
    with (tmp_path / "said.txt").open("w") as said:
        first = subprocess.Popen(command, cwd=REPOSITORY, stderr=said)
    wait_until(lambda: "started" in (tmp_path / "said.txt").read_text())
    try:
        second = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        assert second.returncode == 64
        assert f"in use by process {first.pid} on " in second.stderr
        status = [*command[:3], "status", *where]
        look = subprocess.run(status, cwd=REPOSITORY, capture_output=True, text=True)
        assert look.returncode == 0
        assert f"process {first.pid} on " in look.stderr
        assert " done, " in look.stdout
    finally:
        first.send_signal(signal.SIGTERM)
        status_of_first = first.wait(60)
    assert status_of_first == 130


@pytest.mark.slow
def test_jobs_of_slurm_outlive_their_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one finds them, queued again meanwhile or not, and submits no second."""
    pytest.importorskip("submitit")
    fake_slurm.install(tmp_path / "slurm", monkeypatch)
    root = tmp_path / "run"
    root.mkdir()
    command, environment = program(root, "real slurm", 3.0)
    units = grid(root, 3.0)
    process = subprocess.Popen(command, env=environment)
    wait_until(lambda: all(rounds(unit) for unit in units[:2]))
    process.kill()
    process.wait()
    os.kill(int(attempts(units[0])[0][0]), signal.SIGUSR2)
    outcome = run_units(units, engine("real slurm"))
    assert outcome.complete, outcome.failed
    assert [rounds(unit) for unit in units[:2]] == [COMPLETE, COMPLETE]
    assert [len(attempts(unit)) for unit in units[:2]] == [2, 1]
    scripts = sorted((tmp_path / "slurm" / "jobs").glob("*.script"))
    assert len(scripts) == 4
    assert "#SBATCH --partition=gpu\n" in scripts[0].read_text()
    assert "#SBATCH --time=30\n" in scripts[0].read_text()


@pytest.mark.slow
@each_engine
def test_a_corrupted_checkpoint_costs_a_round(name: str, tmp_path: Path) -> None:
    (unit,) = trained(tmp_path, 1)
    folder = unit.directory / "checkpoints"

    def kill() -> None:
        wait_until(lambda: len(list(folder.glob("*.pt"))) == 2)
        os.kill(int(attempts(unit)[0][0]), signal.SIGTERM)

    later(kill)
    run_units([unit], Local())
    newest = sorted(folder.glob("*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:-7])
    outcome = run_units([unit], engine(name))
    assert outcome.complete
    assert rounds(unit) == COMPLETE
    assert f"{newest.name} is damaged" in (unit.directory / "log.txt").read_text()
