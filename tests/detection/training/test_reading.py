"""Images of batches: the same from memory, from this process and from workers; failures name the file."""

import multiprocessing
import os
import signal

import pytest
import torch
from PIL import Image

from detection.training import reading
from detection.training.reading import Reader, read_pixels
from sslcore.errors import DataError


@pytest.fixture
def files(tmp_path):
    found = []
    for i in range(5):
        Image.new("RGB", (6 + i, 4), (10 * i, 20, 30)).save(tmp_path / f"{i}.png")
        found.append((tmp_path / f"{i}.png", (4, 6 + i)))
    return found


JOBS = [[0, 3], [3, 2], [4, 1]]


def test_workers_give_what_this_process_gives(files):
    here = list(Reader(files).read(JOBS))
    assert [[image.shape[-1] for image in batch] for batch in here] == [[6, 9], [9, 8], [10, 7]]
    assert here[0][1][:, 0, 0].tolist() == [30, 20, 30]
    there = list(Reader(files, workers=2, small=0).read(JOBS))
    assert all(torch.equal(a, b) for x, y in zip(here, there, strict=True) for a, b in zip(x, y, strict=True))


def test_few_images_are_read_once_and_kept(files, monkeypatch):
    reader = Reader(files, workers=2)
    assert reader.workers == 0  # not worth a process
    first = list(reader.read(JOBS))
    monkeypatch.setattr(reading, "read_pixels", None)
    again = list(reader.read(JOBS))
    assert torch.equal(first[1][0], again[1][0])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_cannot_be_read_is_named_in_one_sentence(files, workers):
    files[2][0].write_bytes(b"no image")
    batches = Reader(files, workers=workers, small=0).read(JOBS)
    assert len(next(batches)) == 2
    with pytest.raises(DataError) as caught:
        next(batches)
    assert str(files[2][0]) in str(caught.value) and "Traceback" not in str(caught.value)


def test_an_image_of_another_size_than_annotated_is_refused(files):
    with pytest.raises(DataError, match=r"0.png is 6 x 4 pixels, but its annotation says 4 x 6"):
        read_pixels(files[0][0], (6, 4))


@pytest.mark.parametrize(
    ("sent", "says"), [(signal.SIGKILL, "died, (at|near)"), (signal.SIGSTOP, "did not answer for 3 seconds, (at|near)")]
)
def test_a_worker_that_dies_or_keeps_silent_is_blamed_on_a_file(files, sent, says):
    before = set(multiprocessing.active_children())
    reader = Reader(files, workers=1, small=0, timeout=60)
    batches = reader.read(JOBS * 20)
    next(batches)
    reader.timeout = 3  # not before: to start a worker may take longer than that on a busy machine
    (worker,) = set(multiprocessing.active_children()) - before
    os.kill(worker.pid, sent)
    with pytest.raises(DataError, match=rf"a process that reads images {says} .*png; look at that file"):
        for _ in batches:
            pass
    worker.join(5)
    assert not worker.is_alive()
