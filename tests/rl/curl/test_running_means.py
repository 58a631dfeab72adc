import torch

from rl.curl.running_means import RunningMeans


def test_what_was_counted_on_one_device_goes_on_on_another():
    means = RunningMeans()
    means.add({"critic_loss": torch.tensor(1.0), "actor_loss": torch.tensor(2.0)})
    again = RunningMeans()
    again.restore(means.state(), torch.device("meta"))
    again.add({"critic_loss": torch.tensor(3.0, device="meta")})  # the actor only moves every second time
    assert {total.device.type for total in again.state()["sums"].values()} == {"meta"}
    again.restore(means.state(), torch.device("cpu"))
    assert again.take() == {"critic_loss": 1.0, "actor_loss": 2.0} and again.take() == {}
