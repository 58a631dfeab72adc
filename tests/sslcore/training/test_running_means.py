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


def test_what_was_brought_together_before_has_the_same_mean():
    """Two processes that were stopped go on with the mean of what both had counted."""
    losses = torch.rand(2, 20) * torch.tensor([[1.0], [3.0]])

    def count(means, steps):
        for each, values in zip(means, losses[:, steps], strict=True):
            for value in values:
                each.add({"loss": value})

    def both(first, second):
        other = second.state()["sums"]["loss"] / 20
        return first.take(over=lambda mine: (mine + other) / 2)["loss"]

    whole = [RunningMeans(), RunningMeans()]
    count(whole, slice(20))
    expected = both(*whole)
    for stop in range(1, 20):
        stopped, resumed = [RunningMeans(), RunningMeans()], [RunningMeans(), RunningMeans()]
        count(stopped, slice(stop))
        other = stopped[1].state()["sums"]["loss"]
        state = stopped[0].state(over=lambda mine, other=other: (mine + other) / 2)
        for each in resumed:
            each.restore(state)
        count(resumed, slice(stop, 20))
        assert both(*resumed) == expected, stop
