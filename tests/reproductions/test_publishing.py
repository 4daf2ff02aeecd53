"""Runs write beside themselves; only `publish` reaches the committed results."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from toy_paper import complete, finish, paper

from diffplan.training._lock import exclusive
from reproductions.common import publishing, results
from reproductions.common.command import DONE, FAILED, WRONG, Command
from reproductions.common.provenance import with_digests
from reproductions.common.units import Unit, fingerprint
from reproductions.common.worker import write_done

CLEAN = {"commit": "0" * 40, "dirty": False}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this tree, and that of the runs, be a clean one."""
    monkeypatch.setattr(publishing, "source_version", lambda: CLEAN)
    monkeypatch.setattr("reproductions.common.worker.source_version", lambda: CLEAN)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return the committed results of seeds 0 and 1."""
    finish(tmp_path / "first")
    assert call(tmp_path, "publish", "--directory", str(tmp_path / "first")) == DONE
    return tmp_path / "toy" / "results" / "cpu"


def call(tmp_path: Path, *arguments: str) -> int:
    return Command(paper(tmp_path)).main(arguments)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_report_lies_beside_its_runs(home: Path, tmp_path: Path) -> None:
    before = content(home)
    for directory in ("nothing", "own"):
        if directory == "own":
            finish(tmp_path / "own", [0], ["score.trials=2"])
        where = ["--directory", str(tmp_path / directory)]
        assert call(tmp_path, "report", *where) == DONE
        assert call(tmp_path, "--report-only", *where) == DONE
        assert (tmp_path / directory / "cpu" / "results" / "README.md").exists()
    assert content(home) == before
    page = (tmp_path / "own" / "cpu" / "results" / "README.md").read_text()
    assert "not the settings of preset `cpu`" in page
    assert "trials was 8 and is 2" in page


def test_publishing_replaces_and_adds(home: Path, tmp_path: Path) -> None:
    assert (home / "scores.csv").read_text() == "seed,score\n0,0.375\n1,0.75\n"
    finish(tmp_path / "more", [0, 1, 2])
    assert call(tmp_path, "publish", "--directory", str(tmp_path / "more")) == DONE
    assert "2,1.125" in (home / "scores.csv").read_text()
    records = json.loads((home / "run.json").read_text())
    assert len(records) == 6
    # Each unit's files by their hashes: those of the run folder, not of this one.
    for name, record in records.items():
        for file, digest in record["sha256"].items():
            made = tmp_path / "more" / "cpu" / name / file
            assert digest == hashlib.sha256(made.read_bytes()).hexdigest()


def test_a_page_made_from_the_ledger_grows(home: Path, tmp_path: Path) -> None:
    finish(tmp_path / "more", [2])
    where = ["--directory", str(tmp_path / "more"), "--stages", "score"]
    assert call(tmp_path, "publish", *where) == WRONG
    assert call(tmp_path, "publish", "--add", *where) == DONE
    rows = (home / "scores.csv").read_text().splitlines()
    assert rows == ["seed,score", "0,0.375", "1,0.75", "2,1.125"]
    assert {"score/seed_0", "score/seed_2"} <= json.loads(
        (home / "run.json").read_text()
    ).keys()


def test_what_is_finished_joins_and_the_rest_is_named(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(tmp_path / "more", [2, 3])
    (tmp_path / "more" / "cpu" / "score" / "seed_3" / "done.json").unlink()
    where = ["--directory", str(tmp_path / "more"), "--stages", "score"]
    assert call(tmp_path, "publish", "--add", *where) == DONE
    assert "left out: score/seed_3 is unfinished" in capsys.readouterr().err
    rows = (home / "scores.csv").read_text().splitlines()
    assert rows == ["seed,score", "0,0.375", "1,0.75", "2,1.125"]
    assert "score/seed_3" not in (home / "run.json").read_text()


def test_a_page_made_from_runs_does_not_grow(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "ledger.csv.gz").unlink()
    finish(tmp_path / "more", [2])
    assert call(tmp_path, "publish", "--add", "--directory", f"{tmp_path}/more") == 64
    assert "lacks model/seed_0" in capsys.readouterr().err


def test_units_of_other_settings_do_not_join(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((home / "run.json").read_text())
    before["score/seed_0"]["settings"]["trials"] = 9
    (home / "run.json").write_text(json.dumps(before))
    finish(tmp_path / "more", [2])
    where = ["--directory", str(tmp_path / "more"), "--stages", "score"]
    assert call(tmp_path, "publish", "--add", *where) == WRONG
    assert "score/seed_0: trials was 8 and is 9" in capsys.readouterr().err


def test_a_unit_that_does_not_say_its_seed_is_known_by_those_of_others() -> None:
    def units(seeds: Sequence[int] | None) -> list[Unit]:
        film = partial(print, config={"frames": 3})
        return [
            made
            for seed in seeds or (0,)
            for made in (
                Unit(f"score/{seed}", partial(print, seed=seed), Path()),
                Unit(f"film/{seed}", film, Path()),
            )
        ]

    records = {u.name: {"settings": u.settings()} for u in units([4])}
    assert publishing.own_settings(records, units) == []
    records["film/4"]["settings"]["config"] = {"frames": 9}
    (found,) = publishing.own_settings(records, units)
    assert found.startswith("film/4: ")
    del records["score/4"]
    assert publishing.own_settings(records, units) == ["film/4 is no unit of it"]


def test_units_made_from_another_model_do_not_stay(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((home / "run.json").read_text())
    before["score/seed_0"]["inputs"] = {"score/seed_2": "of another run"}
    (home / "run.json").write_text(json.dumps(before))
    finish(tmp_path / "more", [2])
    where = ["--directory", str(tmp_path / "more"), "--stages", "score"]
    assert call(tmp_path, "publish", "--add", *where) == WRONG
    assert "score/seed_0, made from another score/seed_2" in capsys.readouterr().err


@pytest.mark.parametrize("earlier", [False, True], ids=["now", "of an earlier version"])
def test_units_made_from_another_model_do_not_join(
    earlier: bool, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alone; beside their model, or made from the committed one, they do."""
    records = json.loads((home / "run.json").read_text())
    if earlier:
        for record in records.values():
            record.pop("fingerprint", None)
        # Only units of the model's own stage tell what was committed.
        before = records["score/seed_0"]["inputs"]["model/seed_0"]
        records["score/seed_0"]["inputs"] = {}
        records["model/seed_1"]["inputs"] = {"model/seed_0": before}
        (home / "run.json").write_text(json.dumps(records))
    for name in ("equal", "other"):
        units = finish(tmp_path / name, [0])
        if name == "other":
            (units[0].directory / "model.txt").write_text("7")
            write_done(units[0], {})
            (units[1].directory / "done.json").unlink()
            complete(units[1], units)
    where = ["--directory", str(tmp_path / "other"), "--stages"]
    assert call(tmp_path, "publish", "--add", *where, "score") == WRONG
    assert "score/seed_0, made from another model/seed_0" in capsys.readouterr().err
    same = ["--directory", str(tmp_path / "equal"), "--stages", "score"]
    assert call(tmp_path, "publish", "--add", *same) == DONE


def test_a_folder_has_the_hash_of_its_listing() -> None:
    files = {
        name: {"sha256": name[-1] * 64} for name in ("model.pt", "data/b", "data/a")
    }
    listing = f"{'a' * 64}  a\n{'b' * 64}  b\n"
    record = {"files": files, "settings": {}}
    once = with_digests(record)
    assert with_digests(once) == once
    assert once == {
        "settings": {},
        "fingerprint": fingerprint(record),
        "sha256": {
            "data": hashlib.sha256(listing.encode()).hexdigest(),
            "model.pt": "t" * 64,
        },
    }


def fewer(where: Path) -> None:
    finish(where, [0])


def none(where: Path) -> None:
    where.mkdir()


def overrides(where: Path) -> None:
    finish(where, [0, 1], ["model.size=4"])


def unfinished(where: Path) -> None:
    finish(where, [0, 1, 2])
    (where / "cpu" / "score" / "seed_2" / "done.json").unlink()


def broken(where: Path) -> None:
    finish(where)
    (where / "cpu" / "score" / "seed_1" / "score.csv").write_text("seed,")


def stale(where: Path) -> None:
    units = finish(where)
    finish(where / "other", [0, 1], ["model.size=4"])
    other = where / "other" / "cpu" / "model" / "seed_1"
    for name in ("done.json", "model.txt"):
        (units[1].directory / name).write_bytes((other / name).read_bytes())


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (fewer, r"all 4 units.*lacks model/seed_1, score/seed_1"),
        (none, "has none"),
        (overrides, "settings of the preset.*size was 3 and is 4"),
        (unfinished, r"finished units, got score/seed_2 \(unfinished\)"),
        (broken, r"score/seed_1 \(broken\)"),
        (stale, r"score/seed_1 \(stale\)"),
    ],
)
def test_publishing_is_refused(
    prepare: Callable[[Path], None],
    message: str,
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = content(home)
    prepare(tmp_path / "new")
    assert call(tmp_path, "publish", "--directory", str(tmp_path / "new")) == WRONG
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, said), said
    assert content(home) == before


@pytest.mark.parametrize("commit", ["0" * 40, None])
def test_a_tree_with_changes_publishes_nothing(
    commit: str | None, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(home)
    dirty = {"commit": commit, "dirty": None if commit is None else True}
    monkeypatch.setattr(publishing, "source_version", lambda: dirty)
    where = ["--directory", str(tmp_path / "first")]
    assert call(tmp_path, "publish", *where) == WRONG
    assert content(home) == before


def test_units_of_a_tree_with_changes_are_not_published(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dirty = {"commit": "0" * 40, "dirty": True}
    monkeypatch.setattr("reproductions.common.worker.source_version", lambda: dirty)
    finish(tmp_path / "new")
    where = ["--directory", str(tmp_path / "new")]
    assert call(tmp_path, "publish", *where) == WRONG


def test_a_stage_is_published_alone(home: Path, tmp_path: Path) -> None:
    finish(tmp_path / "new", [0, 1, 2])
    where = ["--directory", str(tmp_path / "new"), "--stages", "model"]
    assert call(tmp_path, "publish", *where) == DONE
    names = set(json.loads((home / "run.json").read_text()))
    assert "model/seed_2" in names
    assert "score/seed_2" not in names
    assert (home / "scores.csv").read_text() == "seed,score\n0,0.375\n1,0.75\n"


def test_numbers_without_meaning_are_not_published(tmp_path: Path) -> None:
    finish(tmp_path / "new", preset="smoke")
    where = ["--preset", "smoke", "--directory", str(tmp_path / "new")]
    assert call(tmp_path, "publish", *where) == WRONG
    assert call(tmp_path, "report", *where) == DONE
    page = (tmp_path / "new" / "smoke" / "results" / "README.md").read_text()
    assert "numbers on this page mean nothing" in page.split("##")[0]


def test_a_strangers_folder_is_left_alone(tmp_path: Path) -> None:
    finish(tmp_path / "new")
    output = tmp_path / "output"
    arguments = ["report", "--directory", str(tmp_path / "new")]
    arguments += ["--output", str(output)]
    output.mkdir()
    (output / "README.md").write_text("mine")
    assert call(tmp_path, *arguments) == WRONG
    assert content(output) == {"README.md": b"mine"}
    (output / "README.md").unlink()
    assert call(tmp_path, *arguments) == DONE
    (output / "notes.txt").write_text("mine")
    assert call(tmp_path, *arguments) == DONE
    assert (output / "notes.txt").read_text() == "mine"
    manifest = json.loads((output / results.MANIFEST).read_text())
    made = {"README.md", "run.json", "scores.csv", "ledger.csv.gz"}
    assert set(manifest["files"]) == made


def test_a_place_that_cannot_be_written_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for option in ("--output", "--directory"):
        arguments = [option, str(tmp_path / "file" / "folder")]
        assert call(tmp_path, *arguments) == WRONG
        error = capsys.readouterr().err
        assert "folder to write to" in error
        assert "started" not in error


def test_a_nearly_full_disk_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "LEAST_FREE_BYTES", 2**62)
    assert call(tmp_path, "--directory", str(tmp_path / "new")) == WRONG
    assert "MB free" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["", "seed,score\n0", "seed,trial,score\n0,x,y\n"])
def test_a_broken_unit_does_not_lose_the_report(damage: str, tmp_path: Path) -> None:
    finish(tmp_path / "new")
    folder = tmp_path / "new" / "cpu" / "score" / "seed_1"
    (folder / "score.csv").write_text(damage)
    record = json.loads((folder / "done.json").read_text())
    for known in (True, False):  # with what was written, and of an earlier version
        if not known:
            del record["files"]
            (folder / "done.json").write_text(json.dumps(record))
        assert call(tmp_path, "report", "--directory", str(tmp_path / "new")) == DONE
        page = (tmp_path / "new" / "cpu" / "results" / "README.md").read_text()
        assert "| 0 | 0.375 |" in page
        assert "| score/seed_1 | broken |" in page


@pytest.mark.parametrize("name", ["settings.json", "inputs.json", "done.json"])
@pytest.mark.parametrize("damage", ["", "{", "[]", '{"settings": 3}'])
def test_a_broken_record_does_not_lose_the_report(
    name: str, damage: str, tmp_path: Path
) -> None:
    finish(tmp_path / "new")
    (tmp_path / "new" / "cpu" / "score" / "seed_1" / name).write_text(damage)
    assert call(tmp_path, "report", "--directory", str(tmp_path / "new")) == DONE
    page = (tmp_path / "new" / "cpu" / "results" / "README.md").read_text()
    assert "| 0 | 0.375 |" in page
    assert ("| score/seed_1 | broken |" in page) == (name == "done.json")


def test_a_failed_unit_has_a_row(tmp_path: Path) -> None:
    units = finish(tmp_path / "new")
    folder = units[-1].directory
    (folder / "done.json").unlink()
    (folder / "error.txt").write_text("ArgumentError: wind: expected\nnone")
    assert call(tmp_path, "report", "--directory", str(tmp_path / "new")) == DONE
    page = (tmp_path / "new" / "cpu" / "results" / "README.md").read_text()
    assert "| score/seed_1 | failed | ArgumentError: wind: expected none |" in page


def test_a_folder_in_use_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with exclusive(tmp_path / "new" / "cpu"):
        assert call(tmp_path, "--directory", str(tmp_path / "new")) == WRONG
    assert "in use by process" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--wind", "3"],
        ["--workers", "two"],
        ["--preset", "paper"],
        ["publish", "model.size=3"],
        ["publish", "--output", "x"],
        ["siz=3"],
        ["model.siz=3"],
    ],
)
def test_wrong_arguments_have_a_status_of_their_own(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path, *arguments, "--directory", str(tmp_path)) == WRONG
    assert capsys.readouterr().err.startswith("error: ")
    assert WRONG not in (DONE, FAILED)


def test_the_start_says_how_much_and_how_long(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run in processes of its own, the first time and again."""
    where = ["--directory", str(tmp_path / "new"), "--seeds", "0"]
    assert call(tmp_path, *where) == DONE
    said = capsys.readouterr().err
    assert "2 units to run, 2 at once, about 2 s by measured times" in said
    assert "score/seed_0: done" in said
    assert "2 of 2" in said
    assert str(tmp_path / "new" / "cpu" / "results" / "README.md") in said
    assert call(tmp_path, *where) == DONE
    assert "started" not in capsys.readouterr().err
