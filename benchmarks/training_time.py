"""What an update of a world model takes on a CPU, and where the time goes.

    python benchmarks/training_time.py [--frames 50] [--repeats 3] [--compile] [--quick]

An RSSM of the paper's size sees 50 sequences of 50 images, the one of the CPU presets
32 sequences of 32 state vectors. Each is updated in float32, with images in memory as
channels last, and with the forward pass in bfloat16; `--compile` adds the compiled
loss, which takes minutes to compile. The contenders of a size take turns. Seconds are
those of the processor, which other programs disturb less.

The share is that of bare convolutions and matrix products, with their derivatives,
among all operations of an update in float32: what no other code could do without.
"""

import time
from typing import Any

import torch
from _measuring import Parser, positive, settings, write_results
from torch.profiler import ProfilerActivity, profile

from diffplan.models import RSSM
from diffplan.models.base import SequenceBatch
from diffplan.training import ModelTrainer, OptimizerConfig
from reproductions.latco.comparison_config import small_rssm

ACTIONS = 4
BARE = ("conv", "mm")
"""What the names of bare operations contain: convolutions, mm, addmm, bmm, baddbmm."""
WAYS = {
    "float32": OptimizerConfig(),
    "channels last": OptimizerConfig(),
    "bfloat16": OptimizerConfig(precision="bfloat16"),
    "compiled": OptimizerConfig(compile=True),
}


class Update:
    """One way of updating one model.

    Args:
        way: One of `WAYS`.
        model: Trained in place.
        batch: The same at each update.
    """

    def __init__(self, way: str, model: RSSM, batch: SequenceBatch) -> None:
        if way == "channels last":
            model.to(memory_format=torch.channels_last)
        self.trainer, self.batch = ModelTrainer(model, WAYS[way]), batch
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self) -> None:
        """Make one update."""
        self.trainer.train_step(self.batch, self.generator)


def of_images(frames: int) -> tuple[RSSM, SequenceBatch]:
    """Return a model of the paper's size and square batches of images."""
    images = torch.randint(256, (frames, frames + 1, 3, 64, 64), dtype=torch.uint8)
    model = RSSM(observation_shape=(3, 64, 64), action_dim=ACTIONS)
    return model, _batch(images)


def of_vectors() -> tuple[RSSM, SequenceBatch]:
    """Return the model of the CPU presets, and their batches."""
    observations = torch.randn(32, 33, 39)
    model = small_rssm(observations.flatten(0, 1), ACTIONS)
    return model, _batch(observations)


def _batch(observations: torch.Tensor) -> SequenceBatch:
    count, steps = observations.shape[0], observations.shape[1] - 1
    actions = torch.zeros(count, steps, ACTIONS)
    return SequenceBatch(observations, actions, torch.zeros(count, steps))


def seconds(update: Update) -> float:
    """Return processor seconds of one update."""
    started = time.process_time()
    update()
    return time.process_time() - started


def bare_share(update: Update) -> float:
    """Return the share of convolutions and matrix products in an update's time."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        update()
    times = {e.key: e.self_cpu_time_total for e in recorded.key_averages()}
    bare = sum(t for name, t in times.items() if any(part in name for part in BARE))
    return bare / sum(times.values())


def measure(made: Any, ways: list[str], repeats: int) -> dict[str, Any]:
    """Return the least seconds of each way, and the share of bare operations.

    Args:
        made: Makes model and batch anew.
        ways: Some of `WAYS`.
        repeats: Updates of each way that count.
    """
    updates = {}
    for way in ways:
        torch.manual_seed(0)
        updates[way] = Update(way, *made())
        updates[way]()  # the first one allocates and compiles
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, update in updates.items():
            found[way].append(seconds(update))
    least = {way: min(times) for way, times in found.items()}
    return {"processor_seconds": least, "bare_share": bare_share(updates["float32"])}


def main() -> None:
    """Measure, print, and write the results file."""
    parser = Parser(__doc__, quick="sequences of 8 images")
    parser.add_argument("--frames", type=positive, default=50)
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("--compile", action="store_true", help="compiled losses too")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.frames, arguments.repeats = 8, 1
    torch.set_num_threads(1)
    ways = [way for way in WAYS if way != "compiled" or arguments.compile]
    sizes = {
        f"{arguments.frames} x {arguments.frames} images, RSSM of 230 numbers": (
            lambda: of_images(arguments.frames)
        ),
        "32 x 32 state vectors, RSSM of 94 numbers": of_vectors,
    }
    results: dict[str, Any] = {}
    for size, made in sizes.items():
        some = [way for way in ways if "images" in size or way != "channels last"]
        results[size] = found = measure(made, some, arguments.repeats)
        print(size, found, flush=True)
    write_results(
        arguments.output / "training_time.json",
        config=settings(arguments),
        results=results,
    )


if __name__ == "__main__":
    main()
