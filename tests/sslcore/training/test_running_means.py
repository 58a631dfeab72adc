import torch

from sslcore.training.running_means import RunningMeans


def test_what_was_counted_on_one_device_goes_on_on_another():
    means = RunningMeans()
    means.add({"critic_loss": torch.tensor(1.0), "actor_loss": torch.tensor(2.0)})
    again = RunningMeans()
    again.restore(means.state(), torch.device("meta"))
    again.add({"critic_loss": torch.tensor(3.0, device="meta")})  # the actor only moves every second time
    assert {total.device.type for total in again.state()["sums"].values()} == {"meta"}
    again.restore(means.state(), torch.device("cpu"))
    assert again.take() == {"critic_loss": 1.0, "actor_loss": 2.0} and again.take() == {}


def test_means_of_several_processes_are_brought_together():
    means = RunningMeans()
    means.add({"loss": torch.tensor(1.0), "other": torch.tensor(4.0)})
    means.add({"loss": torch.tensor(2.0)})
    assert means.state(over=lambda values: values + 1)["sums"] == {"loss": 4.0, "other": 5.0}
    assert means.take(over=lambda values: values * 10) == {"loss": 15.0, "other": 40.0}
    assert means.take(over=lambda values: values * 10) == {}
