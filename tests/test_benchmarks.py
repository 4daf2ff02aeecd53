"""The benchmarks: what their session runs, what they take, where their results go."""

import importlib
import json
import random
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
MEASURED = [name for name in SCRIPTS if name not in ("gpu", "report")]


@pytest.fixture(autouse=True)
def beside_their_helpers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def script(monkeypatch: pytest.MonkeyPatch, name: str, *words: str) -> ModuleType:
    """Return a script whose `main` is going to be called with these words."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    return importlib.import_module(name)


def test_the_session_measures_all_but_the_gpu_and_then_writes_the_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("nox")
    monkeypatch.syspath_prepend(ROOT)
    noxfile, calls = importlib.import_module("noxfile"), []

    def run(_: object, __: object, path: str, *words: str) -> None:
        calls.append((Path(path).stem, *words))

    monkeypatch.setattr(noxfile, "shared_environment", lambda _: "python")
    monkeypatch.setattr(noxfile, "fill_peer", lambda *_: None)
    monkeypatch.setattr(noxfile, "run", run)
    noxfile.bench(SimpleNamespace(posargs=["--quick"]))
    assert calls == [*((name, "--quick") for name in MEASURED), ("report",)]
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert "`nox -s bench`" in page
    assert "`nox -s bench_gpu`" in page


@pytest.mark.filterwarnings("ignore")  # what a contender says when it is imported
@pytest.mark.parametrize("name", MEASURED)
def test_what_the_session_runs_takes_quick(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "latco_iteration":
        pytest.importorskip("theseus")
    with pytest.raises(SystemExit) as exit_:
        script(monkeypatch, name, "--help").main()
    told = " ".join(capsys.readouterr().out.split())
    assert exit_.value.code == 0
    assert "--quick" in told
    writes = "write_results" in (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert ("a temporary one if quick" in told) == writes


def test_quick_results_stay_away_from_those_of_the_pages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    results = FOLDER / "results"
    before = {path: path.read_bytes() for path in results.iterdir()}
    script(monkeypatch, "random_numbers", "--quick", "--repeats", "1").main()
    assert {path: path.read_bytes() for path in results.iterdir()} == before
    (written,) = tmp_path.rglob("random_numbers.json")
    assert json.loads(written.read_text())["config"]["quick"]
    parser = importlib.import_module("_measuring").Parser("", quick="")
    assert parser.parse_args([]).output == results
    assert parser.parse_args(["--quick", "--output", "here"]).output == Path("here")


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("peers", "--peers", "foo"),
        ("peers", "--rounds", "0"),
        ("control_loop", "--peers", "foo"),
        ("control_loop", "--tasks", "foo"),
        ("control_loop", "--starts", "5"),
        ("plan_times", "--planners", "foo"),
        ("random_numbers", "--repeats", "-1"),
        ("random_numbers", "--problems", "1.5"),
        ("report", "--page", "foo"),
    ],
)
def test_unknown_names_and_useless_numbers_are_refused(
    name: str,
    option: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_:
        script(monkeypatch, name, option, value).main()
    told = capsys.readouterr().err
    assert exit_.value.code == 2
    assert option in told
    assert value in told


def test_a_gpu_run_without_time_or_repository_says_so_on_the_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ("--minutes", "0", "--commit", "0123456789abcdef")
    gpu = script(monkeypatch, "gpu", *words, "--output", str(tmp_path))
    monkeypatch.setattr(importlib.import_module("_measuring"), "hardware", dict)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "Machine", lambda *_: None)
    monkeypatch.setattr(gpu, "card", lambda _: {})
    gpu.main()
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["source"] == {"commit": "0123456789abcdef", "dirty": None}
    sections = content["results"]["sections"]
    assert list(sections) == list(gpu.SECTIONS)
    report = importlib.import_module("report")
    page = report.report(tmp_path)
    assert page.count("| left out: ") == len(sections)
    assert "commit `0123456789`," in page
    assert "Never wait" not in page
    content["source"]["commit"] = None
    assert "commit `unknown`," in report.source(content)


def test_peers_are_compared_on_one_thread(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ("--peers", "mpc", "--output", str(tmp_path))
    peers, threads = script(monkeypatch, "peers", *words), torch.get_num_threads()
    monkeypatch.setattr(peers, "run", lambda *_: ([], {}))
    monkeypatch.setattr(peers, "plot", lambda _: None)
    torch.set_num_threads(2)
    try:
        peers.main()
    finally:
        torch.set_num_threads(threads)
    assert json.loads((tmp_path / "peers_mpc.json").read_text())["threads"] == 1


@pytest.mark.parametrize(("count", "told"), [(3, "range"), (5, "range"), (6, "95 %")])
def test_the_range_of_a_few_pairs_is_not_called_an_interval_of_95_percent(
    count: int, told: str
) -> None:
    draw = random.Random(1)
    pairs = [
        {way: (draw.uniform(1, 2), draw.uniform(1, 2)) for way in ("plan", "model")}
        for _ in range(count)
    ]
    found = importlib.import_module("planner_tax").summary(pairs)
    for index, clock in enumerate(("processor", "clock")):
        ratios = [pair["plan"][index] / pair["model"][index] for pair in pairs]
        whole = found[clock]["interval"] == (min(ratios), max(ratios))
        assert whole == (told == "range")
    table = importlib.import_module("report").planner_tax({"case": found})
    assert all(f", {told} |" in line for line in table[2:])


@pytest.mark.parametrize(
    ("numbers", "cell"),
    [([], "0"), ([0], "1 (start 0)"), ([3, 7], "2 (start 3, start 7)")],
)
def test_starts_with_another_outcome_are_counted_and_named(
    numbers: list[int], cell: str
) -> None:
    errors = {"first_plans_float32": [0.0], "first_plans_float64": [0.0]}
    found: dict[str, Any] = {"successes_alone": 27, "successes_together": 26, **errors}
    results = {"starts": 1, "latco": {**found, "other_outcome": numbers}}
    table = importlib.import_module("report").batch_invariance(results)
    assert table[-1].split(" | ")[3] == cell


def test_the_page_is_what_its_results_say() -> None:
    page = importlib.import_module("report").report(FOLDER / "results")
    assert (FOLDER / "results" / "README.md").read_text(encoding="utf-8") == page
