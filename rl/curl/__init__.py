"""CURL as a stable-baselines3 algorithm: Laskin, Srinivas and Abbeel, ICML 2020, on top of SAC."""

from rl.curl.curl import CURL
from rl.curl.policy import CURLPolicy

__all__ = ["CURL", "CURLPolicy"]
