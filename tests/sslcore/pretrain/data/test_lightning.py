"""The stream of all epochs under Lightning's own handling of loaders and restarts, as the training loop uses both."""

import pytest
import pytorch_lightning as pl
import torch

from sslcore.pretrain.data import ImageArray, TrainLoader
from sslcore.pretrain.loop import EpochStream

EPOCHS, STEPS = 3, 5


class Recorder(pl.LightningModule):
    """Notes which batches it sees, saves after batch `save` and is then killed."""

    def __init__(self, save, path):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.save, self.path, self.seen = save, path, []

    def training_step(self, batch, batch_idx):
        assert batch.step == batch_idx
        assert self.current_epoch == 0  # Lightning knows of one epoch only
        self.seen.append((batch.step, batch.ids.tolist()))
        return self.weight * 1.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if batch.step == self.save:
            self.trainer.save_checkpoint(self.path)
            raise ZeroDivisionError


def fit(path, save=None, resume=False):
    images = torch.zeros(23, 3, 2, 2, dtype=torch.uint8)
    stream = EpochStream(TrainLoader(ImageArray(images), batch_size=4, seed=1), EPOCHS * STEPS)
    module = Recorder(save, path)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    if save is None:
        trainer.fit(module, stream, ckpt_path=path if resume else None, weights_only=False)
    else:
        with pytest.raises(ZeroDivisionError):
            trainer.fit(module, stream, ckpt_path=path if resume else None, weights_only=False)
    return module.seen


@pytest.mark.parametrize("saves", [[2], [1, 3], [4], [4, 9], [2, 4, 6], [4, 5, 9, 13], [0]])
@pytest.mark.filterwarnings("ignore")
def test_restarts_continue_with_the_next_batch(tmp_path, saves):
    path = tmp_path / "state.ckpt"
    expected = fit(path)
    assert [step for step, _ in expected] == list(range(EPOCHS * STEPS))
    for epoch in range(EPOCHS):
        ids = [i for _, batch in expected[epoch * STEPS : (epoch + 1) * STEPS] for i in batch]
        assert len(set(ids)) == len(ids) == 4 * STEPS  # an epoch shows no image twice
    seen = []
    for i, save in enumerate([*saves, None]):
        seen += fit(path, save, resume=i > 0)
    assert seen == expected
