"""`diffplan train` on a run of seconds."""

from pathlib import Path

from diffplan import _cli

TASK = "Pendulum-v1"
SIZES = [
    *("model.belief_size=8", "model.hidden_size=8", "model.embedding_size=8"),
    *("model.state_size=4", "model.reward_hidden=8", "model.vector_hidden=8"),
    *("training.seed_episodes=1", "training.episodes_per_round=1"),
    *("training.pretrain_updates=2", "training.updates_per_round=2"),
    *("training.batch_size=4", "training.sequence_length=3"),
    *("training.action_repeat=50", "training.evaluate_every=1"),
    *("training.evaluation_episodes=1", "training.rounds=1", "scale_episodes=1"),
    *("horizon=3", "device=cpu"),
]
TINY = [*SIZES, "planner.num_samples=8", "planner.num_elites=2"]


def command(*words: object) -> int:
    """Run the command line; return its exit status."""
    return _cli.main([str(word) for word in words])


def trained(directory: Path, *more: str, task: str = TASK) -> int:
    """Train on a task; return the exit status."""
    words = [*TINY, *more, "--directory", directory, "--quiet"]
    return command("train", task, *words)
