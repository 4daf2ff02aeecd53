import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffplan._outside import source_version
from diffplan.errors import UnknownNameError
from diffplan.training import Progress, RunLogger, RunRecord, Tracker, read_metrics
from diffplan.training._run_record import package_versions, plain


def test_rows_keep_all_digits(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, tensorboard=False)
    value = 0.1 + 1e-16 + 1 / 3
    logger.write(0, 150, {"a": value, "b": 2})
    assert (tmp_path / "metrics.csv").read_text() == (
        f"round,environment_step,name,value\n0,150,a,{value!r}\n0,150,b,2.0\n"
    )
    assert float(read_metrics(tmp_path / "metrics.csv")[0]["value"]) == value


def test_resuming_removes_later_and_broken_rows(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, tensorboard=False)
    for index in range(4):
        logger.write(index, index, {"a": index})
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text() + "1,1,b")
    resumed = RunLogger(tmp_path, first_round=2, tensorboard=False)
    resumed.write(2, 2, {"a": 20, "new": 1})
    rows = [(row["round"], row["name"], row["value"]) for row in read_metrics(path)]
    assert rows == [
        ("0", "a", "0.0"),
        ("1", "a", "1.0"),
        ("2", "a", "20.0"),
        ("2", "new", "1.0"),
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_holds_means_but_no_single_episodes(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = RunLogger(tmp_path)
    logger.write(3, 450, {"test/return": 1.5, "test/episode_0/return": 1.0})
    logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["test/return"]
    event = events.Scalars("test/return")[0]
    assert (event.step, event.value) == (3, 1.5)


def test_progress_writes_plain_lines_where_nobody_watches() -> None:
    stream = io.StringIO()
    with Progress(3, stream=stream, interval=1000.0) as progress:
        for done in range(1, 4):
            progress.update(done, {"loss": done / 3, "time/seconds": 1.0})
    # The first and the last; the one between comes too soon.
    assert stream.getvalue() == "round 1/3  loss 0.3333\nround 3/3  loss 1\n"


def test_progress_shows_a_bar_on_a_terminal() -> None:
    pytest.importorskip("rich")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with Progress(2, stream=stream) as progress:
        progress.update(2, {"loss": 0.5})
    assert "2/2" in stream.getvalue()
    assert "loss 0.5" in stream.getvalue()


def test_quiet_progress_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(1, quiet=True) as progress:
        progress.update(1, {"loss": 1.0})
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_run_record_adds_a_session_at_each_start(tmp_path: Path) -> None:
    for first, status in ((0, "interrupted"), (3, "completed")):
        record = RunRecord(tmp_path, {"rounds": 5, "path": tmp_path}, seed=7)
        record.begin(first)
        assert json.loads((tmp_path / "run.json").read_text())["status"] == "running"
        record.end(status)
    content = json.loads((tmp_path / "run.json").read_text())
    assert [session["first_round"] for session in content["sessions"]] == [0, 3]
    assert content["status"] == "completed"
    assert content["config"] == {"rounds": 5, "path": str(tmp_path)}
    assert content["seed"] == 7


def test_plain_turns_any_setting_into_json() -> None:
    assert plain({"a": (1, 2.5, None), 3: {"b": True}}) == {
        "a": [1, 2.5, None],
        "3": {"b": True},
    }
    assert plain(complex(1, 2)) == "(1+2j)"


def test_versions_and_source_are_told() -> None:
    versions = package_versions()
    assert versions["python"].count(".") == 2
    assert "torch" in versions
    source = source_version()
    assert set(source) == {"commit", "dirty"}
    assert source["commit"] is None or len(source["commit"]) == 40


def test_importing_training_loads_no_optional_package() -> None:
    optional = [
        "tensorboard", "rich", "imageio", "gymnasium", "mujoco", "dm_control",
        "metaworld", "matplotlib", "theseus",
    ]  # fmt: skip
    code = (
        "import sys, diffplan.training, diffplan.agents\n"
        f"sys.exit(','.join(m for m in {optional} if m in sys.modules) or 0)"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_tracker_is_one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="did you mean wandb, trackio"):
        Tracker("mlflow")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"pip install .*\[wandb\]"):
        Tracker("wandb")


def test_trackio_is_told_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("trackio")
    tracker = Tracker("trackio", project="diffplan-test", embed=False)
    tracker.write(0, 100, {"test/return": 1.5})
    tracker.close()
    assert any((tmp_path / "trackio").rglob("*.db"))
