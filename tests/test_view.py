"""`diffplan view` and `diffplan plan`: what the page holds, and how it is served."""

import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import pytest
import torch
from run_folder import new_run, shown

import diffplan as dp
from diffplan import _cli
from diffplan._cli._page import _some, page
from diffplan._colours import PLANNERS
from diffplan.training import RunLogger, RunRecord, load_plan_record
from reproductions.common.styles import planner_styles

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_run(tmp_path_factory)


def test_the_page_holds_the_run_and_nothing_of_it_is_markup(run: Path) -> None:
    text = page(run)
    content = shown(text)
    assert content["title"] == run.name
    assert "<i>" not in text
    assert "cartpole &amp; &lt;i&gt;" in text
    assert not re.search(r"(src|href)=\W?https?:", text)
    assert "seed 7" in content["facts"]
    assert "test/episode_0" not in content["metrics"]
    rows = content["metrics"]["train/grad_norm"]
    assert rows[4] == [4, 2500, None]
    assert rows[29][2] == pytest.approx(2 + torch.tensor(29.0).cos().item(), rel=1e-4)
    assert [each["name"] for each in content["videos"]] == [
        "round 000029",
        "round 000010",
    ]
    plans = {plan["name"]: plan for plan in content["plans"]}
    record = load_plan_record(run / "plans" / "latco_0.npz")
    told = plans["latco_0"]
    assert told["cost"] == pytest.approx(record.cost.tolist(), rel=1e-5)
    assert told["states"][2][3] == pytest.approx(
        record.states[3, :, 2].tolist(), rel=1e-5
    )
    assert told["happened"][2] == pytest.approx(
        record.happened[:, 2].tolist(), rel=1e-5
    )
    assert tuple(told["colour"]) == PLANNERS["LatCo"]


def test_a_run_in_its_first_round_is_shown(tmp_path: Path) -> None:
    RunRecord(tmp_path, {}, seed=3).begin(0)
    for _ in range(2):
        content = shown(page(tmp_path))
        assert content["facts"][:2] == ["status running", "seed 3"]
        assert content["metrics"] == {}
        RunLogger(tmp_path, tensorboard=False).close()  # a table without rows


def test_steps_have_all_their_digits(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, tensorboard=False)
    places = [(12345 + i, 123_456_789 + i) for i in range(5)]
    for index, step in places:
        logger.write(index, step, {"train/loss": 1.0})
    rows = shown(page(tmp_path))["metrics"]["train/loss"]
    assert [tuple(row[:2]) for row in rows] == places


def test_every_planner_has_a_colour_of_its_own() -> None:
    planners = {name for name in dp.planners.__all__ if hasattr(dp, name)}
    planners = {n for n in planners if isinstance(getattr(dp, n), type)} - {"Planner"}
    assert set(PLANNERS) == planners
    assert len({shade for pair in PLANNERS.values() for shade in pair}) == 2 * len(
        PLANNERS
    )


def test_planners_are_found_in_names_and_their_variants_told_apart() -> None:
    styles = planner_styles(
        *("LatCo", "latco_duals", "Grad-MPC", "PlaNet (CEM)", "dcem", "random"),
        *("Shooting GD, many starts", "latco_first_order", "iLQR", "still"),
    )
    colours = [PLANNERS[name][0] for name in ("LatCo", "GradMPC", "CEM", "DCEM")]
    latco, gradient, cem, dcem = colours
    assert styles[:5] == [
        *((latco, "-"), (latco, "--"), (gradient, "-"), (cem, "-"), (dcem, "-"))
    ]
    assert styles[6] == (PLANNERS["ShootingGD"][0], "-")
    assert styles[7] == (latco, ":")
    assert styles[8] == (PLANNERS["ILQR"][0], "-")
    assert styles[5][0] == styles[9][0] not in colours
    assert len(set(styles)) == len(styles)


def test_videos_are_chosen_evenly_with_the_last() -> None:
    files = [Path(str(index)) for index in range(11)]
    assert [int(file.name) for file in _some(files, 3)] == [10, 5, 0]
    assert [int(file.name) for file in _some(files, 1)] == [10]
    assert _some(files, 0) == []
    assert len(_some(files, 20)) == 11


def test_what_cannot_be_shown_is_an_error(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*given: object) -> tuple[int, str]:
        status = _cli.main(["view", *map(str, given)])
        return status, capsys.readouterr().err

    out = ("--output", tmp_path / "page.html")
    assert told(tmp_path / "none", *out)[0] == 64
    status, text = told(tmp_path, *out)
    assert status == 64
    assert "expected run.json, metrics.csv, videos or plans" in text
    assert told(run, "--videos", "-1", *out)[0] == 64
    assert told(run, "--port", "70000")[0] == 64
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, text = told(run, "--port", port)
    assert status == 1
    assert text.startswith(f"error: --port: expected one that is free, got {port}: ")
    (tmp_path / "metrics.csv").write_text("no,such,table\n1,2,3\n")
    status, text = told(tmp_path, *out)
    assert status == 1
    assert "metrics of a run" in text
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "cut.npz").write_bytes(b"PK")
    status, text = told(tmp_path, *out)
    assert status == 1
    assert "cut.npz" in text
    assert not out[1].exists()


def test_a_plan_alone_is_a_page(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "plans" / "latco_0.npz", tmp_path / "mine.npz")
    for given in (tmp_path, tmp_path / "mine.npz"):
        out = tmp_path / "page.html"
        assert _cli.main(["view", str(given), "--output", str(out)]) == 0
        (plan,) = shown(out.read_text(encoding="utf-8"))["plans"]
        assert plan["name"] == "mine"


def test_the_page_is_served_to_this_machine_until_interrupted(run: Path) -> None:
    command = [sys.executable, "-m", "diffplan", "view", str(run), "--no-browser"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DIFFPLAN_TYPECHECK": "0"}
    # In the background of a shell that gives it to nobody, Ctrl-C is ignored.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=env, **streams, preexec_fn=heard) as served:
        try:
            address = served.stdout.readline().split()[0]
            assert address.startswith("http://127.0.0.1:")
            leave(int(address.rstrip("/").rpartition(":")[2]))
            # Pages that take as long: behind them nothing of that one is to come.
            for host in (None, "127.0.0.1", "LOCALHOST:80"):  # of port 80 none is told
                headers = {} if host is None else {"Host": host}
                asked = urllib.request.Request(address, headers=headers)
                with urllib.request.urlopen(asked) as answer:
                    assert shown(answer.read().decode())["title"] == run.name
            for path, host in (("favicon.ico", "127.0.0.1:1"), ("", "evil.example:80")):
                asked = urllib.request.Request(address + path, headers={"Host": host})
                with pytest.raises(urllib.error.HTTPError, match="404") as refused:
                    urllib.request.urlopen(asked)
                refused.value.close()
        finally:
            served.send_signal(signal.SIGINT)
        assert served.wait(60) == 0
        assert served.stderr.read() == ""


def leave(port: int) -> None:
    """Ask for the page, and go without a word before it comes."""
    with socket.create_connection(("127.0.0.1", port)) as browser:
        browser.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        at_once = struct.pack("ii", 1, 0)
        browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)


def test_a_plan_of_a_trained_run_goes_to_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gymnasium")
    folder = tmp_path / "my run"
    given = [
        f"training.{name}"
        for name in (
            *("rounds=0", "seed_episodes=1", "pretrain_updates=1", "batch_size=2"),
            *("sequence_length=5", "evaluate_every=0", "keep_best=false"),
        )
    ]
    small = [*given, "scale_episodes=0", "model.belief_size=8", "model.state_size=4"]
    train = ["train", "Pendulum-v1", *small, "--directory", str(folder), "--quiet"]
    assert _cli.main(train) == 0
    words = ["planner=latco", "planner.iterations=4", "horizon=6"]
    assert _cli.main(["plan", str(folder), *words, "--seed", "3"]) == 0
    path = folder / "plans" / "latco_3.npz"
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first.startswith(f"{path}: ")
    assert shlex.split(second, comments=True) == ["diffplan", "view", str(folder)]
    record = load_plan_record(path)
    assert record.states.shape == (5, 7, 12)
    assert record.happened.shape == (7, 12)
    # What both begin with is what the filter made of the first observation.
    assert (record.happened[0] == record.states[:, 0]).all()
    # Pendulum pays at most nothing.
    assert (record.rewards < 0).all()
    assert [each["name"] for each in shown(page(folder))["plans"]] == ["latco_3"]
    for name in ("../there", "..", "."):
        assert _cli.main(["plan", str(folder), "--name", name]) == 64
    assert [each.name for each in (folder / "plans").iterdir()] == [path.name]
    assert _cli.main(["plan", str(folder), "horizont=3"]) == 64
    assert _cli.main(["plan", str(tmp_path)]) == 64
