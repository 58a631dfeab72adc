"""Shared by all tests: one torch thread each (two workers share two cores), and shapes checked as they are declared."""

import os
import signal

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("MPLBACKEND", "agg")

from jaxtyping import install_import_hook

# Every public function of the core is called with its declared shapes checked; before the first import of sslcore.
install_import_hook(
    ["sslcore.augment", "sslcore.losses", "sslcore.memory", "sslcore.nn", "sslcore.ops"], "beartype.beartype"
)

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for jobs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
