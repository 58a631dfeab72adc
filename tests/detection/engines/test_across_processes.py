"""One process with four images and two processes with two each train alike: losses, gradients, prototypes."""

import pytest
import torch
import torch.distributed as dist
from support.processes import in_processes
from support.small_detectors import small_batch, small_detector


def _trained(images, targets, previous):
    """Losses, gradients and state after two steps; batch norm of a process would see its own images only."""
    detector = small_detector(network={"norm": "frozen"}, clustering={"loss": "infonce"}).train()
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.1)
    losses = []
    for number in range(2):
        out = detector.losses(images, targets, step=number, progress=0.5, previous=previous)
        optimizer.zero_grad()
        sum(out.losses.values()).backward()
        for parameter in detector.parameters():
            if dist.is_initialized():  # what DDP does
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
        optimizer.step()
        detector.head.remember(*out.to_remember)
        losses.append({name: loss.detach() for name, loss in out.losses.items()})
    gradients = {name: p.grad.clone() for name, p in detector.named_parameters()}
    return losses, gradients, {k: v.float() for k, v in detector.state_dict().items()}


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 0, 2, 1]])
def test_two_processes_train_as_one(tmp_path, order):
    images, targets = small_batch(4)
    targets[1].ignore[0] = True
    few = targets[2]
    few.boxes, few.labels, few.ignore = few.boxes[:0], few.labels[:0], few.ignore[:0]  # one process has fewer objects
    previous = [torch.tensor([[0.0, 0.0, 30.0, 30.0]])] * 4

    def share(rank):
        mine = order[2 * rank : 2 * rank + 2]
        return _trained(*([x[i] for i in mine] for x in (images, targets, previous)))

    losses, gradients, state = _trained(images, targets, previous)
    shares = in_processes(share, tmp_path)
    for number, whole in enumerate(losses):
        for name, loss in whole.items():
            halves = [found[0][number][name] for found in shares]
            assert torch.allclose(sum(halves) / 2, loss, rtol=1e-4, atol=1e-5), (number, name)
    assert losses[1]["clustering"] > 0
    for _, theirs, their_state in shares:
        for name, gradient in gradients.items():
            assert torch.allclose(theirs[name], gradient, rtol=1e-3, atol=1e-5), name
        for name, value in state.items():
            if "store" not in name and "ring" not in name and "queue" not in name:
                assert torch.allclose(their_state[name], value, rtol=1e-3, atol=1e-5), name
