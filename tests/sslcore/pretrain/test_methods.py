import copy
import math

import pytest
import torch
from support.processes import in_processes
from support.recipes import METHODS, small_recipe
from torch import nn

from sslcore.nn import build_backbone, sync_batch_norms
from sslcore.pretrain.method import Batch, Progress
from sslcore.pretrain.methods import REGISTRY, build_method


def method_of(name, **changes):
    torch.manual_seed(1)
    settings = small_recipe(name, method=changes).method
    return build_method(settings, build_backbone("tiny", width=4))


def batch_of(n=8, step=0, epoch=0.0, views=2, seed=0):
    g = torch.Generator().manual_seed(100 + step)
    images = torch.randn(n, 3, 16, 16, generator=g)
    noisy = [images + 0.3 * torch.randn(n, 3, 16, 16, generator=g) for _ in range(views)]
    ids, labels = torch.arange(n) + step * n, torch.arange(n) % 3
    return Batch(noisy, ids, labels, step, seed, Progress(step, 100, epoch))


def embed_set(function):
    g = torch.Generator().manual_seed(9)
    return function(torch.randn(60, 3, 16, 16, generator=g)).float(), torch.ones(60, dtype=torch.bool)


def update(method, optimizer, batch):
    optimizer.zero_grad()
    result = method.step(batch)
    result.loss.backward()
    method.before_optimizer(batch.progress)
    optimizer.step()
    with torch.no_grad():
        method.after_update([result.to_remember], batch.progress)
    return result


def test_every_method_of_the_registry_has_small_settings_for_these_tests():
    assert set(METHODS) == set(REGISTRY)


@pytest.mark.parametrize("name", REGISTRY)
def test_a_step_gives_a_finite_loss_and_a_gradient_to_the_whole_encoder(name):
    method = method_of(name)
    method.before_epoch(embed_set, Progress(0, 100, 1.0))
    result = method.step(batch_of(epoch=1.0, step=4))
    result.loss.backward()
    assert result.loss.ndim == 0 and result.loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.encoder.parameters())
    assert any(p.grad.abs().sum() > 0 for p in method.encoder.parameters())


@pytest.mark.parametrize("name", REGISTRY)
def test_a_repeated_batch_is_learned(name):
    # SwAV's batch of 8 and 12 prototypes is degenerate with hard codes; softer ones are learnable.
    method = method_of(name, **({"epsilon": 0.5} if name == "swav" else {}))
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.05, momentum=0.9)
    method.before_epoch(embed_set, Progress(0, 100, 1.0))
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = method.step(batch_of(epoch=1.0)).loss
        loss.backward()
        optimizer.step()  # and no after_update: a queue of the same batch's keys would be its own adversary
        losses.append(float(loss.detach()))
    assert max(losses[-3:]) < 0.8 * losses[0]


@pytest.mark.parametrize("name", REGISTRY)
def test_a_step_writes_no_memory(name):
    """Memory moves in after_update; what a step changes are running statistics of batch norm alone."""
    method = method_of(name)
    method.before_epoch(embed_set, Progress(0, 100, 1.0))
    before = copy.deepcopy(method.state_dict())
    method.step(batch_of(epoch=1.0, step=1))
    changed = {key for key, value in method.state_dict().items() if not torch.equal(value, before[key])}
    assert all("running_" in key or "num_batches" in key for key in changed)


@pytest.mark.parametrize("name", ["moco", "pcl", "byol"])
def test_momentum_networks_get_no_gradient_and_follow_slowly(name):
    method = method_of(name)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.1)
    follower = method.target_encoder if name == "byol" else method.key_encoder
    old = [p.clone() for p in follower.parameters()]
    update(method, optimizer, batch_of())
    assert all(p.grad is None and not p.requires_grad for p in follower.parameters())
    momentum = 0.9  # BYOL's rises along the run; this is its first step
    for before, now, online in zip(old, follower.parameters(), method.encoder.parameters(), strict=True):
        torch.testing.assert_close(now, momentum * before + (1 - momentum) * online.detach())


def test_symmetric_moco_never_meets_an_images_own_key(monkeypatch):
    """With the two halves' keys in neither half's negatives: the bug of several published implementations."""
    method, batch = method_of("moco", symmetric=True), batch_of()
    seen = []
    from sslcore.pretrain.methods import moco

    real = moco.info_nce
    monkeypatch.setattr(
        moco, "info_nce", lambda q, k, queue, **kw: seen.append((k, queue.clone())) or real(q, k, queue, **kw)
    )
    result = method.step(batch)
    assert len(seen) == 2
    for own in result.to_remember:
        own = nn.functional.normalize(own, dim=1)
        for _, negatives in seen:
            assert (own @ negatives.t()).max() < 0.999
    method.after_update([result.to_remember], batch.progress)
    for own in result.to_remember:  # and afterwards they are there
        assert torch.allclose(
            (nn.functional.normalize(own, dim=1) @ method.queue.features.t()).max(1).values, torch.ones(8)
        )


def test_moco_keys_of_split_norms_do_not_share_statistics_with_their_queries():
    method = method_of("moco", norm_splits=2)
    batch = batch_of()
    keys = method.keys(batch.views[1], batch)
    with torch.no_grad():
        in_order = method.key_projector(method.key_encoder(batch.views[1]))
    assert not torch.allclose(keys, in_order)  # other companions in each half
    again = method.keys(batch.views[1], batch)
    assert torch.equal(keys, again)  # the order follows from seed, step and ids


def test_the_first_loss_of_moco_is_near_its_chance():
    method = method_of("moco", queue=4096, projector=[16, 32], temperature=1.0)
    loss = method.step(batch_of(n=16)).loss
    assert float(loss.detach()) == pytest.approx(method.chance(16)["loss"], abs=1.2)
    assert method.chance(16)["loss"] == pytest.approx(math.log(4097))


def test_swav_freezes_its_prototypes_and_keeps_them_normalised():
    method = method_of("swav", freeze_prototypes_epochs=1.0)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.1)
    start = method.prototypes.vectors.detach().clone()
    update(method, optimizer, batch_of(epoch=0.5))
    torch.testing.assert_close(method.prototypes.vectors, start)
    update(method, optimizer, batch_of(epoch=1.0, step=1))
    assert (method.prototypes.vectors - start).abs().max() > 1e-4
    torch.testing.assert_close(method.prototypes.vectors.norm(dim=1), torch.ones(12))


def test_swav_balances_with_its_queue_only_once_it_is_full():
    method = method_of("swav")
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.1)
    full = []
    for step in range(12):
        batch = batch_of(epoch=step / 4, step=step)
        full.append(method.queue_is_full(batch.progress))
        update(method, optimizer, batch)
    # Pushed from epoch 1 (step 4) on, 8 rows a step: 32 rows are there from step 8 on.
    assert full == [False] * 8 + [True] * 4


def test_swav_takes_small_crops():
    method = method_of("swav")
    batch = batch_of(views=4)
    batch.views[2:] = [view[..., :8, :8] for view in batch.views[2:]]
    method.step(batch).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.encoder.parameters())


def test_pcl_contrasts_prototypes_only_after_its_warm_up():
    method = method_of("pcl")
    calls = []
    embed = lambda function: calls.append(1) or embed_set(function)  # noqa: E731
    method.before_epoch(embed, Progress(0, 100, 0.0))
    assert "prototype" not in method.step(batch_of(epoch=0.5)).terms and not calls
    method.before_epoch(embed, Progress(0, 100, 1.0))
    terms = method.step(batch_of(epoch=1.0)).terms
    assert calls == [1] and terms["loss"] == pytest.approx(float(terms["instance"] + terms["prototype"]), rel=1e-5)


def without_batch_norm(module: nn.Module) -> nn.Module:
    """Every batch norm becomes a layer norm, so that samples do not mix."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d):
            setattr(module, name, nn.LayerNorm(child.num_features))
        elif isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(1, child.num_features))
        else:
            without_batch_norm(child)
    return module


@pytest.mark.parametrize("norms", [without_batch_norm, sync_batch_norms])
@pytest.mark.parametrize("name", REGISTRY)
def test_two_processes_of_four_equal_one_of_eight(name, norms, tmp_path):
    def steps(rank, world):
        method = norms(method_of(name)).double()
        optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.05)
        method.eval()  # as in a run, whose processes share the set; here each embeds all of it
        method.before_epoch(lambda f: embed_set(lambda x: f(x.double())), Progress(0, 100, 1.0))
        method.train()
        losses = []
        for step in range(6):
            batch = batch_of(step=step, epoch=1.0 + step / 4)
            mine = slice(rank * 8 // world, (rank + 1) * 8 // world)
            batch = Batch(
                [v[mine].double() for v in batch.views], batch.ids[mine], batch.labels[mine], step, 0, batch.progress
            )
            optimizer.zero_grad()
            result = method.step(batch)
            result.loss.backward()
            loss = result.loss.detach()
            if world > 1:  # what DDP does
                for p in method.parameters():
                    if p.grad is not None:
                        torch.distributed.all_reduce(p.grad.div_(world))
                torch.distributed.all_reduce(loss.div_(world))
            losses.append(float(loss))
            method.before_optimizer(batch.progress)
            optimizer.step()
            with torch.no_grad():
                method.after_update([result.to_remember], batch.progress)
        return losses, method.state_dict()

    losses, state = steps(0, 1)
    for their_losses, their_state in in_processes(lambda rank: steps(rank, 2), tmp_path):
        assert their_losses == pytest.approx(losses, rel=1e-6)
        for key, value in state.items():
            torch.testing.assert_close(their_state[key].double(), value.double(), rtol=1e-5, atol=1e-6, msg=key)
