"""stable-baselines3's Monitor, which adds an episode's return and length to the last `info`."""

from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.monitor import Monitor


class EpisodeSums(Monitor, RecordConstructorArgs):
    """A Monitor without a file that lets `env.spec.make()` build the environment again, as gymnasium's checker does."""

    def __init__(self, env) -> None:
        RecordConstructorArgs.__init__(self)
        Monitor.__init__(self, env)
