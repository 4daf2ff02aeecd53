"""The three phases of the DCEM reproduction's locomotion stage, with the simulator."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffplan._runs.online import build_model
from diffplan.models import RSSM
from diffplan.problem import Box
from diffplan.training import read_metrics
from diffplan.training.online import OnlineTrainer
from reproductions.common.provenance import gather
from reproductions.dcem import locomotion, locomotion_report
from reproductions.dcem.locomotion_policy import ControllerPolicy, PolicyTraining
from reproductions.dcem.locomotion_world import environments, new_controller
from reproductions.dcem.paper import PAPER

SMOKE = PAPER.settings("smoke").locomotion


@pytest.fixture(scope="module")
def phases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all units of the smoke preset in this process, without interruptions."""
    pytest.importorskip("dm_control")
    folder = tmp_path_factory.mktemp("runs")
    for unit in locomotion.units(SMOKE, [0], folder):
        unit.directory.mkdir(parents=True, exist_ok=True)
        settings = json.dumps(unit.settings())
        (unit.directory / "settings.json").write_text(settings)
        unit.run()
        source = {"commit": "0123456789", "dirty": unit.name.endswith("_tests")}
        record = {"name": unit.name, "settings": unit.settings(), "source": source}
        (unit.directory / "done.json").write_text(json.dumps(record))
    return folder


def stopping(job: type, index: int) -> Callable[..., Any]:
    """Return the job's `play_round`, which dies after playing a round."""
    play = job.play_round

    def dying(self: Any, current: int) -> Any:
        result = play(self, current)
        if current == index:
            raise KeyboardInterrupt
        return result

    return dying


def rows(directory: Path) -> list[dict[str, str]]:
    found = read_metrics(directory / "metrics.csv")
    return [row for row in found if not row["name"].startswith("time/")]


@pytest.mark.parametrize("phase", locomotion.PHASES)
def test_an_interrupted_phase_goes_on_bit_for_bit(
    phase: str, phases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = {
        unit.name.rpartition("/")[2]: unit
        for unit in locomotion.units(SMOKE, [0], phases)
    }
    whole, work = units[phase].directory, units[phase].run
    assert hasattr(work, "keywords")
    again = type(work)(work.func, **{**work.keywords, "directory": tmp_path})
    job = PolicyTraining if phase == "policy" else OnlineTrainer
    with monkeypatch.context() as patch:
        patch.setattr(job, "play_round", stopping(job, 1))
        with pytest.raises(KeyboardInterrupt):
            again()
    assert {row["round"] for row in rows(tmp_path)} == {"0"}
    assert not (tmp_path / "model.pt").exists()
    again()
    assert rows(tmp_path) == rows(whole)
    for name in ("model.pt", "decoder.pt"):
        if (whole / name).exists():
            pair = [weights_of(folder / name) for folder in (whole, tmp_path)]
            for key, value in pair[0].items():
                assert torch.equal(value, pair[1][key]), key


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a model, or of a decoder."""
    if path.name == "model.pt":
        return RSSM.load(path).state_dict()
    return torch.load(path, weights_only=True)


def test_phase_3_leaves_the_frozen_parts_as_phase_2_had_them(phases: Path) -> None:
    folder = phases / "cheetah-run" / "seed_0"
    models = [weights_of(folder / p / "model.pt") for p in ("embedded", "policy")]
    for name, value in models[0].items():
        tuned = name.startswith("reward_head")
        assert torch.equal(value, models[1][name]) != tuned, name
    decoders = [weights_of(folder / p / "decoder.pt") for p in ("embedded", "policy")]
    for name, value in decoders[0].items():
        assert not torch.equal(value, decoders[1][name]), name


def test_phase_2_goes_on_with_the_episodes_of_phase_1(phases: Path) -> None:
    folder = phases / "cheetah-run" / "seed_0"
    counts = [len(list((folder / p / "episodes").glob("*"))) for p in locomotion.PHASES]
    assert counts == [3, 3, 0]
    metrics = {row["name"] for row in rows(folder / "embedded")}
    assert {"train/decoder_cost", "train/kl"} <= metrics
    assert "train/kl" not in {row["name"] for row in rows(folder / "policy")}


def test_what_phase_2_hands_on_is_what_was_evaluated_best(phases: Path) -> None:
    folder = phases / "cheetah-run" / "seed_0" / "embedded"
    returns = {
        int(row["round"]): float(row["value"])
        for row in rows(folder)
        if row["name"] == "test/return"
    }
    last = max((folder / "checkpoints").glob("*.pt"))
    state = torch.load(last, weights_only=True)["job"]
    best = state["best"]
    assert best["mean_return"] == max(returns.values()) == returns[best["index"]]
    weights = weights_of(folder / "model.pt")
    for name, value in weights.items():
        assert torch.equal(value, best["model"][name]), name
    decoder = weights_of(folder / "decoder.pt")
    for name, value in decoder.items():
        assert torch.equal(value, best["auxiliary"]["decoder"][name]), name


def test_experience_is_that_of_the_policy(phases: Path) -> None:
    """Probabilities, values and advantages, once more from what was stored."""
    place, settings = SMOKE.place("cheetah-run"), SMOKE.policy
    with environments(place, 2) as envs:
        box = Box([-1.0] * 6, [1.0] * 6)
        model = build_model(SMOKE.model, (17,), 6, seed=0)
        made = new_controller(model, SMOKE.embedding, box, seed=0)
        policy = ControllerPolicy(made, settings, seed=0)
        training = PolicyTraining(policy, envs, place, settings, 2, 0)
        seen: list[torch.Tensor] = []
        observe = training.reward_scale.observe
        training.reward_scale.observe = lambda r: (seen.append(r), observe(r))
        data, _ = training._collect(0)
    assert len(data) == 2 * 6
    with torch.no_grad():
        distribution, values = policy(*data.inputs)
    torch.testing.assert_close(distribution.log_prob(data.actions), data.log_probs)
    torch.testing.assert_close(values, data.values)
    residual = (data.actions - distribution.mean) / 0.1
    assert 0.7 < float(residual.std()) < 1.3
    # A_t - γλ A_{t+1} = r_t + γ V_{t+1} - V_t, within the second episode; its rewards
    # were scaled by what was known after both.
    advantages, values = data.advantages[6:], data.values[6:]
    errors = advantages[:-1] - 0.99 * 0.95 * advantages[1:]
    rewards = errors + values[:-1] - 0.99 * values[1:]
    expected = training.reward_scale.apply(seen[1])
    torch.testing.assert_close(rewards, expected[:-1], rtol=1e-4, atol=1e-5)
    assert len(seen[1]) == 6


def test_the_report_shows_every_phase(phases: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    records = gather(phases)
    page = locomotion_report.write(phases, tmp_path, records)
    for title in (
        "random actions",
        "no action",
        "CEM (phase 1)",
        "DCEM (phase 2)",
        "DCEM + PPO",
    ):
        assert title in page
    assert "701 [683, 714]" in page
    assert "returns cannot be compared" in page
    # 12 of each search, and those with which the first plan tries the dynamics.
    assert re.search(r"\| 12,000 \| 1[2-9] \|", page)
    assert "decoder and reward tuned" in page
    assert "cheetah-run, seed 0: round" in page
    for name in ("locomotion_returns.png", "locomotion_curves.png", "ledger.csv.gz"):
        assert (tmp_path / name).stat().st_size > 100
    assert "| 01234567, 01234567* |" in page
    # What is published makes the same page, and stays as it is.
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert locomotion_report.write(tmp_path / "none", tmp_path, records) == page
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_report_of_nothing_is_empty(tmp_path: Path) -> None:
    assert locomotion_report.write(tmp_path, tmp_path, {}) == ""
