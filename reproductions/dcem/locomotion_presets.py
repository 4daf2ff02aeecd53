"""Stage (c) made smaller: for one core per task, and for seconds."""

from dataclasses import replace

from diffplan.training.model_trainer import OptimizerConfig
from diffplan.training.ppo import PPOConfig
from reproductions.dcem.locomotion_config import (
    MODEL,
    SEARCH,
    EmbeddingSettings,
    LocomotionConfig,
    PolicySettings,
    TaskSettings,
    World,
    initial_training,
)

# A controller may stay in a pose from which its model promises much: plans
# whose first action is always the same. Noise leads out of it, an episode
# without noise shows the model what comes of it; where the prior, which plans
# are made with, has little weight, it is not learnt.
SCALED_EMBEDDING = EmbeddingSettings(
    num_samples=40,
    num_elites=4,
    iterations=3,
    states=8,
    exploration=(0.0, 0.2, 0.4, 0.6),
    kl_scale=1.0,
)


def scaled() -> LocomotionConfig:
    """Return all three phases, small enough for one core per task.

    Smaller networks, batches and planners (the embedded one still has a tenth of
    the budget of the full one), scaled observations, a small share of the episodes.
    """
    online = replace(
        initial_training(),
        episodes_per_round=2,
        updates_per_round=200,
        batch_size=16,
        sequence_length=30,
        evaluate_every=4,
        evaluation_episodes=2,
        checkpoint_every=1,
        optimizer=OptimizerConfig(1e-3),
    )
    return LocomotionConfig(
        test_episodes=10,
        cheetah=TaskSettings(4, 12, 24, 12),
        walker=TaskSettings(2, 12, 16, 12),
        world=World(
            num_envs=2,
            embedded_envs=4,
            policy_envs=4,
            test_envs=10,
            scale_episodes=2,
            posterior="mean",
            device="cpu",
        ),
        model=MODEL.replaced(
            belief_size=64,
            hidden_size=128,
            embedding_size=128,
            vector_hidden=128,
            reward_hidden=128,
            activation="elu",
            initialization="glorot",
            free_nats=1.0,
            free_nats_on="mean",
            kl_scale=0.1,
            observation_scale=1.0,
            reward_scale=20.0,
        ),
        search=SEARCH.replaced(num_samples=240, num_elites=24, iterations=5),
        embedding=SCALED_EMBEDDING,
        initial=online,
        # Acting costs little now: more episodes for each update keep the decoder from
        # what a model of few episodes promises wrongly.
        embedded=replace(
            online,
            seed_episodes=4,
            episodes_per_round=4,
            updates_per_round=120,
            evaluate_every=2,
            evaluation_episodes=4,
            keep_best=True,
        ),
        policy=PolicySettings(
            episodes=4,
            std=0.1,  # as published; the 0.1 of the paper is the variance
            evaluate_every=4,
            evaluation_episodes=4,
            ppo=PPOConfig(passes=1, minibatches=16, learning_rate=1e-5),
        ),
    )


def smoke() -> LocomotionConfig:
    """Return settings of seconds; the numbers mean nothing."""
    config = scaled()
    online = replace(
        config.initial,
        seed_episodes=1,
        pretrain_updates=2,
        updates_per_round=2,
        batch_size=4,
        sequence_length=4,
        evaluate_every=1,
        evaluation_episodes=1,
    )
    return replace(
        config,
        tasks=("cheetah-run",),
        test_episodes=2,
        cheetah=TaskSettings(4, 1, 1, 2),
        walker=TaskSettings(2, 1, 1, 2),
        world=replace(
            config.world,
            time_limit=24,
            compile=False,
            embedded_envs=2,
            policy_envs=2,
            test_envs=2,
            scale_episodes=1,
        ),
        model=config.model.replaced(
            state_size=4,
            belief_size=8,
            hidden_size=8,
            embedding_size=8,
            vector_hidden=8,
            reward_hidden=8,
        ),
        search=SEARCH.replaced(horizon=3, num_samples=20, num_elites=4, iterations=2),
        embedding=replace(
            config.embedding,
            horizon=3,
            latent=2,
            hidden=8,
            num_samples=4,
            num_elites=2,
            iterations=1,
            states=2,
        ),
        initial=online,
        embedded=replace(online, keep_best=True),
        policy=replace(
            config.policy,
            episodes=2,
            evaluate_every=1,
            evaluation_episodes=1,
            ppo=replace(config.policy.ppo, minibatches=2),
        ),
    )
