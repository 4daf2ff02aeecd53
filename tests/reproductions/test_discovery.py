"""A paper is a folder: put there, it has a command, a session, a page and a line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import reproductions
from reproductions.common.experiment import Paper, papers
from reproductions.durations import table

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))
import paper_pages  # noqa: E402


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkout that has one more paper, and nothing else that is new."""
    root = tmp_path_factory.mktemp("checkout")
    papers = root / "reproductions"
    papers.mkdir()
    for name in ("__init__.py", "durations.py", "README.md"):
        shutil.copy(ROOT / "reproductions" / name, papers)
    shutil.copytree(ROOT / "reproductions" / "common", papers / "common")
    shutil.copytree(ROOT / "tests" / "coin", papers / "coin")
    shutil.copy(ROOT / "noxfile.py", root)
    return root


def call(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=tree,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{tree}:{ROOT}", "PATH": "/usr/bin:/bin"},
        check=False,
    )


@pytest.mark.parametrize("paper", papers(), ids=lambda paper: paper.name)
def test_the_first_part_of_a_units_name_is_its_stage(paper: Paper) -> None:
    """By it units are published with their stage."""
    for preset in paper.presets:
        made = paper.all_units(preset, None)
        first = {unit.name.partition("/")[0] for unit in made}
        assert first <= {*paper.stages(preset)}


def test_a_new_paper_runs_a_grid_and_has_a_line_in_the_table(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("reproductions.coin", "preset=cpu", "coin=fair,loaded", "seed=0")
    done = call(tree, *words)
    assert done.returncode == 0, done.stderr
    assert "2 units to run" in done.stderr
    folder = tree / "runs" / "coin" / "cpu" / "results"
    page = (folder / "README.md").read_text()
    assert page.startswith("# Coin, preset `cpu`\n")
    assert "| coin | seed | paper | ours |" in page
    lines = [line for line in page.splitlines() if line.startswith(("| fai", "| loa"))]
    rows = (folder / "heads.csv").read_text().splitlines()[1:]
    assert len(lines) == len(rows) == 2
    for line, row in zip(lines, rows, strict=True):
        coin, seed, heads = row.split(",")
        assert line == f"| {coin} | {seed} | 0.5 | {heads} |"
    # Once this is published, the paper has a line.
    monkeypatch.setattr(reproductions, "__path__", [str(tree / "reproductions")])
    (paper,) = papers()
    shutil.copytree(folder, paper.committed("cpu"))
    assert "| Heads and tails (Nobody; nowhere) | `nox -s reproduce_coin` |" in table()


def test_a_new_paper_has_a_session(tree: Path) -> None:
    done = call(tree, "nox", "--list", "-f", "noxfile.py")
    assert "reproduce_coin" in done.stdout, done.stderr
    assert "reproduce_latco" not in done.stdout


def test_a_new_paper_has_a_page(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "index.md").write_text("stays")
    (tmp_path / "gone.md").write_text("of a paper that is gone")
    paper_pages.write_pages(tmp_path, tree / "reproductions")
    assert {path.name for path in tmp_path.iterdir()} == {"index.md", "coin.md"}
    page = (tmp_path / "coin.md").read_text()
    assert "*Heads and tails*, Nobody, nowhere" in page
    assert "nox -s reproduce_coin -- preset=smoke" in page


def test_every_folder_with_a_paper_is_found() -> None:
    there = {path.parent.name for path in (ROOT / "reproductions").glob("*/paper.toml")}
    assert {paper.name for paper in papers()} == there >= {"dcem", "latco"}
    folders = {path.parent.name for path in (ROOT / "reproductions").glob("*/results")}
    assert folders <= there
