"""Training and evidence: replay, online and offline loops, evaluation, run folders."""

from diffplan._checks import missing
from diffplan._kinds import check_public

try:
    import numpy  # noqa: F401
except ImportError as error:  # torch works without NumPy, episodes do not.
    raise missing("diffplan.training needs numpy", "suite") from error

from diffplan.training._interaction import Environments, run_episodes
from diffplan.training._run_record import RunRecord
from diffplan.training.checkpoint import Checkpoints, CheckpointWarning
from diffplan.training.dreamer import Dreamer, DreamerConfig
from diffplan.training.episode import Episode, load_episode, save_episode
from diffplan.training.evaluate import Evaluation, evaluate
from diffplan.training.logging import (
    MetricWriter,
    Progress,
    RunLogger,
    Tracker,
    read_metrics,
)
from diffplan.training.minari import export_minari, import_minari
from diffplan.training.model_trainer import (
    ModelTrainer,
    OptimizerConfig,
    constant,
    hold_then_decay,
)
from diffplan.training.offline import OfflineConfig, OfflineTrainer
from diffplan.training.online import AuxiliaryUpdate, Best, OnlineConfig, OnlineTrainer
from diffplan.training.plan_record import (
    PlanRecord,
    load_plan_record,
    record_agent_plan,
    record_plan,
)
from diffplan.training.ppo import PPO, Experience, Policy, PPOConfig, RewardScale
from diffplan.training.recorder import EpisodeRecorder
from diffplan.training.replay_buffer import ReplayBuffer, episode_path
from diffplan.training.run import Job, run_rounds
from diffplan.training.seeding import (
    SIMULATOR_BITS,
    derive_seed,
    global_seeds,
    make_generator,
)
from diffplan.training.timer import Timers
from diffplan.training.video import film_strip, side_by_side, to_frames, write_video

__all__ = [
    "PPO",
    "SIMULATOR_BITS",
    "AuxiliaryUpdate",
    "Best",
    "CheckpointWarning",
    "Checkpoints",
    "Dreamer",
    "DreamerConfig",
    "Environments",
    "Episode",
    "EpisodeRecorder",
    "Evaluation",
    "Experience",
    "Job",
    "MetricWriter",
    "ModelTrainer",
    "OfflineConfig",
    "OfflineTrainer",
    "OnlineConfig",
    "OnlineTrainer",
    "OptimizerConfig",
    "PPOConfig",
    "PlanRecord",
    "Policy",
    "Progress",
    "ReplayBuffer",
    "RewardScale",
    "RunLogger",
    "RunRecord",
    "Timers",
    "Tracker",
    "constant",
    "derive_seed",
    "episode_path",
    "evaluate",
    "export_minari",
    "film_strip",
    "global_seeds",
    "hold_then_decay",
    "import_minari",
    "load_episode",
    "load_plan_record",
    "make_generator",
    "read_metrics",
    "record_agent_plan",
    "record_plan",
    "run_episodes",
    "run_rounds",
    "save_episode",
    "side_by_side",
    "to_frames",
    "write_video",
]

# Records of episodes and runs are made too often.
_RECORDS = {"Best", "Episode", "Evaluation", "Experience", "Job", "PlanRecord"}
check_public(globals(), (name for name in __all__ if name not in _RECORDS))
