import pytest
import torch

from sslcore.memory import LearnedPrototypes


def test_vectors_have_length_one_whatever_the_weights():
    prototypes = LearnedPrototypes(6, 4)
    torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(6))
    with torch.no_grad():
        prototypes.weight.mul_(3)
    torch.testing.assert_close(prototypes.vectors.norm(dim=1), torch.ones(6))
    turned = prototypes.vectors.detach().clone()
    prototypes.normalize_()
    torch.testing.assert_close(prototypes.weight.detach(), turned)


def test_gradients_only_turn_the_prototypes():
    prototypes = LearnedPrototypes(6, 4)
    (prototypes.vectors @ torch.randn(4, 5)).square().sum().backward()
    along = (prototypes.weight.grad * prototypes.weight).sum(dim=1)
    assert prototypes.weight.grad.abs().max() > 0.1
    torch.testing.assert_close(along, torch.zeros(6), atol=1e-5, rtol=0)


def test_frozen_prototypes_do_not_move_in_spite_of_momentum_and_weight_decay():
    prototypes = LearnedPrototypes(6, 4)
    optimizer = torch.optim.SGD(prototypes.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)

    def step(freeze):
        before = prototypes.weight.detach().clone()
        optimizer.zero_grad()
        prototypes.vectors.sum().backward()
        if freeze:
            prototypes.freeze_gradients_()
        optimizer.step()
        return torch.equal(before, prototypes.weight)

    assert not step(freeze=False)
    assert step(freeze=True)
    assert not step(freeze=False)


def test_weights_are_in_the_state():
    ours, copy = LearnedPrototypes(3, 2), LearnedPrototypes(3, 2)
    copy.load_state_dict(ours.state_dict())
    assert torch.equal(ours.vectors, copy.vectors)
    with pytest.raises(ValueError, match="at least 1"):
        LearnedPrototypes(0, 2)
