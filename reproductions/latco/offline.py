"""What the offline episodes of the hybrid tasks hold.

`python -m reproductions.latco.offline` writes `results/offline.csv`: for each task and
level of noise, with and without a detour, how many expert episodes there are and
in how many the task is solved at some step. From states, where the same happens as from
images. About a minute.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from diffplan._runs.tables import write_csv
from diffplan.envs._rendering import select_backend
from diffplan.training.episode import Episode
from reproductions.latco.comparison_config import DataConfig
from reproductions.latco.data import BEHAVIOURS, expert_number, expert_settings
from reproductions.latco.online import offline_data, scripted_episodes
from reproductions.latco.online_config import HYBRID, paper_run

TABLE = Path(__file__).parent / "results" / "offline.csv"


def outcomes(data: DataConfig, episodes: Iterable[Episode]) -> list[dict[str, object]]:
    """Return one row for each kind of episode: how many there are, how many solved.

    Args:
        data: What the episodes are.
        episodes: The first ones, with their successes.
    """
    counts: dict[tuple[str, str, str], list[int]] = {}
    for index, episode in enumerate(episodes):
        kind = BEHAVIOURS[index % len(BEHAVIOURS)]
        noise = detour = "–"
        if kind == "expert":
            level, detours = expert_settings(
                expert_number(index), len(data.expert_noise)
            )
            noise, detour = f"{data.expert_noise[level]:g}", "yes" if detours else "no"
        count = counts.setdefault((kind, noise, detour), [0, 0])
        count[0] += 1
        count[1] += bool(episode.succeeded)
    return [
        {
            "task": data.task,
            "behaviour": kind,
            "noise": noise,
            "detour": detour,
            "episodes": total,
            "solved": solved,
        }
        for (kind, noise, detour), (total, solved) in sorted(counts.items())
    ]


def main() -> None:
    """Write the table of both tasks, for seed 0."""
    select_backend()
    rows = []
    for task in HYBRID:
        run = replace(paper_run(task), observation="state")
        rows += outcomes(offline_data(run), scripted_episodes(run, seed=0))
    write_csv(TABLE, rows)


if __name__ == "__main__":
    main()
