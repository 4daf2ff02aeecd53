"""The Lottery's experiment: data, what a model knows of risk, and the claims."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_paper import results_of

from diffplan.training.replay_buffer import ReplayBuffer
from reproductions.common import ledger
from reproductions.common.units import DONE
from reproductions.latco import lottery, lottery_report
from reproductions.latco.lottery_config import LotteryConfig


def test_data_makes_for_either_goal_equally_often(tmp_path: Path) -> None:
    lottery.collect(
        tmp_path, "lottery/paper", 12, counts=(200, 0), noise=0.2, wander=4, seed=0
    )
    rewards = np.array(
        [e.rewards.sum() for e in ReplayBuffer.load(tmp_path / "training").episodes]
    )
    assert set(rewards) <= {0.0, 1.0, 20.0, -40.0}
    top, bottom = np.mean(rewards == 1), np.mean(np.abs(rewards) > 1)
    assert abs(top - bottom) < 0.1
    assert top + bottom > 0.9


def test_a_model_that_knows_the_risk_is_told_from_one_that_does_not() -> None:
    class Coin:
        state_size = 1

        def step(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
            del action
            return state * 0

        def sample_step(
            self, state: torch.Tensor, action: torch.Tensor, noise: torch.Tensor
        ) -> torch.Tensor:
            return self.step(state, action) + noise

        def reward(self, state: torch.Tensor) -> torch.Tensor:
            return torch.where(state[..., 0] < -1.0, -40.0, 20.0)

    state, action = torch.zeros(4000, 1), torch.zeros(2)
    generator = torch.Generator().manual_seed(0)
    by_the_mean = lottery._return(Coin(), state, action, 1, None)
    sampled = lottery._return(Coin(), state, action, 1, generator)
    assert (by_the_mean == 20).all()
    # P(noise < -1) = 0.1587; five standard errors of the mean.
    expected = 20 - 60 * 0.158655
    assert abs(float(sampled.mean()) - expected) < 5 * 60 * 0.366 / 4000**0.5


def rows(planner: str, top: float, bottom: float) -> list[dict[str, str]]:
    made = []
    for seed in range(3):
        for start in range(100):
            share = start / 100
            made.append(
                {
                    "planner": planner,
                    "seed": str(seed),
                    "episode": str(start),
                    "outcome": str(int(share < top)),
                    "choose_bottom": str(int(top <= share < top + bottom)),
                }
            )
    return made


def test_claims_have_the_verdict_that_the_shares_have() -> None:
    by = {
        "gaussian": rows("gaussian", 0.9, 0.05),
        "latco": rows("latco", 0.48, 0.5),
        "cem": rows("cem", 0.9, 0.1),
        "gd": rows("gd", 0.05, 0.9),
    }
    verdicts = {claim: verdict for claim, _, verdict in lottery_report.claims(by)}
    assert verdicts["Gaussian LatCo prefers the top goal"] == "held"
    assert verdicts["CEM prefers the bottom goal"] == "contradicted"
    assert verdicts["shooting GD visits both in similar proportions"] == "contradicted"
    again = "Gaussian LatCo chooses the top goal more often than "
    assert verdicts[again + "LatCo"] == "held"
    assert verdicts[again + "CEM"] == "not seen"
    # 98 of 100 starts decided almost evenly: the interval is ± 20 points.
    assert verdicts["LatCo visits both in similar proportions"] in ("held", "not seen")


def test_the_seed_that_eight_starts_were_chosen_with_does_not_judge_them() -> None:
    known = [{**row, "outcome": "0"} for row in rows("gaussian_many", 0.9, 0.05)]
    fresh = [row for row in rows("gaussian_many", 0.9, 0.05) if row["seed"] != "0"]
    by = {"gaussian_many": [r for r in known if r["seed"] == "0"] + fresh}
    judged = lottery_report.claims(by)[0]
    assert judged == lottery_report.claims({"gaussian_many": fresh})[0]
    assert judged[2] == "held"


def test_of_a_planner_that_reaches_no_goal_nothing_is_said() -> None:
    by = {"gaussian": rows("gaussian", 0.05, 0.0), "gd": rows("gd", 0.0, 0.0)}
    verdicts = [verdict for _, _, verdict in lottery_report.claims(by)[:2]]
    assert verdicts == ["not seen", "not seen"]


def test_a_run_and_its_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    config, runs = LotteryConfig.smoke(), tmp_path / "runs"
    for unit in lottery.units(config, [0], runs):
        unit.directory.mkdir(parents=True)
        unit.run()
        source = {"commit": "0123456789", "dirty": False}
        record = {"name": unit.name, "settings": unit.settings(), "source": source}
        (unit.directory / DONE).write_text(json.dumps(record))
    results = results_of(runs, tmp_path / "results")
    section = lottery_report.report(results)
    assert section is not None
    assert "Whether the model knows the risk" in section.text
    found = ledger.read(results.output, lottery.EXPERIMENT)
    assert len(found) == config.evaluation.starts * len(config.planners)
    summary = json.loads((results.output / lottery_report.SUMMARY).read_text())
    assert set(summary["models"]["seed_0"]) == {"top", "bottom", "seen"}
    for numbers in summary["planners"].values():
        whole = numbers["top"] + numbers["bottom"] + numbers["none"]
        assert whole == pytest.approx(1.0)
    # What is published makes the same page.
    again = lottery_report.report(replace(results, runs=tmp_path / "none"))
    assert again is not None
    assert again.text == section.text
