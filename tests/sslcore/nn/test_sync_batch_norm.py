import pytest
import torch
from support.processes import in_processes
from torch import nn

from sslcore.nn import SyncBatchNorm, build_backbone, sync_batch_norms

UNEVEN, NONE = ((0, 2), (2, 7)), ((0, 0), (0, 7))  # of seven samples: processes need not have equally many


def steps(norm, batches, weights, share=slice(None)):
    """What a norm gives for its share of some batches, its gradients, and its state."""
    out, grads = [], []
    for x in batches:
        x = x[share].clone().requires_grad_()
        y = norm(x)
        (y * weights[share]).sum().backward()
        out.append(y.detach())
        grads.append(x.grad)
    own = [None if p is None else p.grad for p in (norm.weight, norm.bias)]
    return out, grads, own, norm.state_dict()


@pytest.mark.parametrize(
    ("shape", "momentum", "affine", "shares"),
    [
        ((4, 5, 3), 0.1, True, UNEVEN),
        ((4,), None, True, UNEVEN),
        ((4,), 0.3, False, UNEVEN),
        ((4, 5, 3), 0.1, True, NONE),
    ],
)
def test_the_shares_of_two_processes_are_normalised_as_one_batch(tmp_path, shape, momentum, affine, shares):
    plain = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
    alone = plain(4, momentum=momentum, affine=affine).double()
    if affine:
        nn.init.uniform_(alone.weight, 0.5, 2)
        nn.init.uniform_(alone.bias, -1, 1)
    batches = [torch.randn(7, *shape, dtype=torch.float64) * 3 + 40 for _ in range(2)]
    weights = torch.randn(7, *shape, dtype=torch.float64)
    start = {name: value.clone() for name, value in alone.state_dict().items()}

    def share(rank):
        norm = plain(4, momentum=momentum, affine=affine).double()
        norm.load_state_dict(start)
        return steps(sync_batch_norms(norm), batches, weights, slice(*shares[rank]))

    found = in_processes(share, tmp_path)
    out, grads, own, state = steps(alone, batches, weights)
    for step in range(2):
        torch.testing.assert_close(torch.cat([each[0][step] for each in found]), out[step])
        torch.testing.assert_close(torch.cat([each[1][step] for each in found]), grads[step])
    for which, whole in enumerate(own):
        parts = [each[2][which] for each in found]
        assert parts == [None, None] if whole is None else torch.allclose(sum(parts), whole)
    for _, _, _, theirs in found:
        torch.testing.assert_close(theirs, state)
    assert all(torch.equal(found[0][3][name], found[1][3][name]) for name in state)


def test_half_precision_comes_back_and_is_normalised_in_full(tmp_path):
    x = torch.randn(6, 3, 4, 4) * 2 + 100

    def share(rank):
        return SyncBatchNorm(3)(x[3 * rank : 3 * rank + 3].bfloat16()).detach()

    found = torch.cat(in_processes(share, tmp_path))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), nn.BatchNorm2d(3)(x.bfloat16().float()).detach(), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("tracked", [True, False])
def test_looking_exchanges_nothing(tmp_path, tracked):
    """In eval mode one process may look at images while the other does not, with or without running statistics."""
    x = torch.randn(4, 3, 2, 2)

    def share(rank):
        norm = SyncBatchNorm(3, track_running_stats=tracked).eval()
        return norm(x).detach() if rank else None

    _, found = in_processes(share, tmp_path)
    assert torch.equal(found, nn.BatchNorm2d(3, track_running_stats=tracked).eval()(x))


@pytest.mark.parametrize("frozen", ["weight", "bias", "both"])
def test_what_is_frozen_or_not_there_gets_no_gradient(tmp_path, frozen):
    """Newer batch norms may do without a bias alone."""
    x = torch.randn(6, 3)

    def gradients(norm, share):
        if frozen == "bias":
            norm.bias = None
        else:
            norm.weight.requires_grad_(False)
            norm.bias.requires_grad_(frozen != "both")
        inputs = x[share].clone().requires_grad_()
        norm(inputs).pow(3).sum().backward()
        return [inputs.grad, norm.weight.grad, None if norm.bias is None else norm.bias.grad]

    first, second = in_processes(lambda rank: gradients(SyncBatchNorm(3), slice(3 * rank, 3 * rank + 3)), tmp_path)
    whole = gradients(nn.BatchNorm1d(3), slice(None))
    torch.testing.assert_close(torch.cat([first[0], second[0]]), whole[0])
    for ours, theirs, expected in zip(first[1:], second[1:], whole[1:], strict=True):
        assert (ours, theirs) == (None, None) if expected is None else torch.allclose(ours + theirs, expected)


def test_a_gradients_gradient_is_refused_and_not_wrong(tmp_path):
    def share(rank):
        x = torch.randn(3, 2, requires_grad=True)
        (slope,) = torch.autograd.grad(SyncBatchNorm(2)(x).pow(3).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            slope.sum().backward()

    in_processes(share, tmp_path)


def test_alone_it_is_batch_norm():
    ours, norm, x = SyncBatchNorm(3), nn.BatchNorm2d(3), torch.randn(4, 3, 2, 2)
    assert torch.equal(ours(x), norm(x))
    assert torch.equal(ours.running_var, norm.running_var)
    with pytest.raises(ValueError, match=r"needs \(n, 3, \.\.\.\), not \(4,\)"):
        ours(torch.zeros(4))


def test_conversion_keeps_weights_statistics_and_names():
    network = nn.Sequential(build_backbone("tiny", width=4), nn.BatchNorm1d(16, affine=False).eval())
    network[0](torch.randn(4, 3, 32, 32))
    before, parameters = {key: value.clone() for key, value in network.state_dict().items()}, list(network.parameters())
    assert sync_batch_norms(network) is network
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(a is b for a, b in zip(parameters, network.parameters(), strict=True))
    assert sum(isinstance(module, SyncBatchNorm) for module in network.modules()) == 7
    assert not network[1].training and network[0].training
