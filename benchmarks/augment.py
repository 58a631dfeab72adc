"""What augmentation costs: two views of a batch, and each operation, beside torchvision and kornia.

    python benchmarks/augment.py                                  # about two minutes
    python benchmarks/augment.py --threads 1 --json result.json
    pip install --target DIR --no-deps kornia kornia_rs && python benchmarks/augment.py --peers DIR

All forms make the same kind of view of the same images (crop of .2 to 1 of the area, flip, colour jitter .4 .4 .4 .1 of
80 %, grayscale of 20 %, normalisation; decoding is left out) and take turns, so that whatever else the machine does
disturbs all alike. Times are medians; ratios are medians over the rounds of that round's ratio, above 1 where ours is
faster. torchvision changes one image at a time, so with several threads it gets as many worker processes, each with its
images at hand, nothing to receive and nothing to send back. kornia works on batches, without antialiasing in its crop.
"""

import argparse
import importlib.util
import json
import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.pool import Pool
from typing import NamedTuple

import torch
from alternate import Forms, hardware, measure, table
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from sslcore.augment import (
    RandomView,
    ViewSpec,
    adjust_colour_,
    adjust_hue_,
    gaussian_blur,
    grayscale_,
    random_crop_frames,
    resize_crops,
    solarize_,
)
from sslcore.augment import frames as frames_module
from sslcore.augment import resize as resize_module

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


# --- two views of a batch -------------------------------------------------------------------------------------------


def view_forms(n: int, side: int, size: int, blur: float, device: torch.device, pool: Pool | None) -> Forms:
    """Two views of n images of side x side. The first form is ours."""
    images = photos(n, side)
    moved, ids = images.to(device), torch.arange(n, device=device)
    view = RandomView(ViewSpec(size=size, blur=blur), MEAN, STD)
    step = iter(range(10**9))

    def ours() -> None:
        now = next(step)
        for number in (0, 1):
            view(moved, seed=0, step=now, ids=ids, view=number)

    forms: Forms = {"RandomView": ours}
    if device.type == "cpu":
        for name, as_pil in (("torchvision, PIL images", True), ("torchvision, uint8 tensors", False)):
            forms[name] = torchvision_form(Share(n, side, size, blur, as_pil), pool)
    if importlib.util.find_spec("kornia"):
        forms["kornia, batch"] = kornia_form(moved, size, blur)
    return forms


class Share(NamedTuple):
    """Which images a process makes two views of: part `part` of `parts`."""

    n: int
    side: int
    size: int
    blur: float
    as_pil: bool
    part: int = 0
    parts: int = 1


def torchvision_form(whole: Share, pool: Pool | None) -> Callable[[], object]:
    if pool is None:
        return lambda: two_views_of_share(whole)
    processes = pool._processes  # type: ignore[attr-defined]
    shares = [whole._replace(part=part, parts=processes) for part in range(processes)]
    return lambda: pool.map(two_views_of_share, shares, chunksize=1)


def torchvision_pipeline(size: int, blur: float) -> Callable[[object], Tensor]:
    kernel = size // 20 * 2 + 1  # a tenth of the side, as SimCLR
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            *([v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], p=blur)] if blur else []),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


_held: dict[tuple, tuple] = {}  # a process's images, ready for its pipeline since its first call


def two_views_of_share(share: Share) -> None:
    """Every process makes the images for itself. Sent as tensors they would be copied by a thread of the pool in the
    parent, whose copy starts OpenMP threads of its own; with more of those than processors, libgomp stops spinning
    between the parallel parts of all of them, and our form takes two or three times as long."""
    key = share._replace(part=0)
    if key not in _held:
        images = photos(share.n, share.side)
        _held[key] = (
            [tv.to_pil_image(image) if share.as_pil else image for image in images],
            torchvision_pipeline(share.size, share.blur),
        )
    images, pipeline = _held[key]
    mine = images[share.part * len(images) // share.parts : (share.part + 1) * len(images) // share.parts]
    for _ in range(2):
        torch.stack([pipeline(image) for image in mine])


def kornia_form(images: Tensor, size: int, blur: float) -> Callable[[], None]:
    import kornia.augmentation as K

    kernel = size // 20 * 2 + 1
    pipeline = torch.nn.Sequential(
        K.RandomResizedCrop((size, size), scale=(0.2, 1.0), align_corners=False, cropping_mode="resample"),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        *([K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=blur)] if blur else []),
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    ).to(images.device)

    def two() -> None:
        for _ in range(2):
            pipeline(images.float() / 255)

    return two


# --- one operation at a time ------------------------------------------------------------------------------------------


def operation_forms(n: int, side: int, size: int, device: torch.device) -> dict[str, Forms]:
    """Every operation with parameters of its own for each of n images; `chosen` are a fifth, as grayscale's usually."""
    uint8 = photos(n, side).to(device)
    boxes = torch.tensor([[side // 8, side // 6, side * 3 // 4, side * 2 // 3]] * n, device=device)
    corners = [tuple(box) for box in boxes.tolist()]
    x = torch.rand(n, 3, size, size, device=device)
    factor = torch.rand(n, device=device) + 0.5
    turn = (torch.rand(n, device=device) - 0.5) / 5
    sigma = torch.rand(n, device=device) * 1.9 * size / 224 + 0.1
    radius = max(1, size // 28)
    kernel = [2 * radius + 1] * 2
    chosen = torch.arange(n, device=device) % 5 == 0
    factors, turns, sigmas = factor.tolist(), turn.tolist(), sigma.tolist()

    def one_by_one(change: Callable[[Tensor, float], Tensor], values: list[float]) -> Callable[[], Tensor]:
        return lambda: torch.stack([change(image, value) for image, value in zip(x, values)])

    def jitter_three(image: Tensor, value: float) -> Tensor:
        return tv.adjust_saturation(tv.adjust_contrast(tv.adjust_brightness(image, value), value), value)

    def on_chosen(change: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def run() -> None:
            x[chosen] = change(x[chosen])

        return run

    operations: dict[str, Forms] = {
        f"crop and resize, uint8, {side} to {size}": {
            "resize_crops": lambda: resize_crops(uint8, boxes, size),
            "two matrices": lambda: resize_module._by_matrices(uint8, boxes, size, None, torch.float32),
            "torchvision, image by image": lambda: torch.stack(
                [tv.resized_crop(image, *box, [size, size]) for image, box in zip(uint8, corners)]
            ).float(),
        },
        f"brightness, contrast, saturation, {size}": {
            "adjust_colour_": lambda: adjust_colour_(x.clone(), factor, factor, factor),
            "torchvision, image by image": one_by_one(jitter_three, factors),
        },
        f"hue, {size}": {
            "adjust_hue_": lambda: adjust_hue_(x.clone(), turn),
            "torchvision, image by image": one_by_one(tv.adjust_hue, turns),
            "torchvision, one turn for all": lambda: tv.adjust_hue(x, 0.1),
        },
        f"grayscale of a fifth, {size}": {
            "grayscale_": lambda: grayscale_(x, chosen),
            "torchvision on the chosen": on_chosen(lambda some: tv.rgb_to_grayscale(some, 3)),
        },
        f"solarize a fifth, {size}": {
            "solarize_": lambda: solarize_(x, chosen),
            "torchvision on the chosen": on_chosen(lambda some: tv.solarize(some, 0.5)),
        },
        f"Gaussian blur of radius {radius}, {size}": {
            "gaussian_blur": lambda: gaussian_blur(x, sigma, radius=radius),
            "torchvision, image by image": one_by_one(lambda image, s: tv.gaussian_blur(image, kernel, [s, s]), sigmas),
            "depthwise convolutions": lambda: depthwise_blur(x, sigma, radius),
        },
    }
    if importlib.util.find_spec("kornia"):
        import kornia
        from kornia import enhance

        three, hue, grey, solarized, blurred = list(operations.values())[1:]
        three["kornia"] = lambda: enhance.adjust_saturation(
            enhance.adjust_contrast_with_mean_subtraction(enhance.adjust_brightness_accumulative(x, factor), factor),
            factor,
        )
        hue["kornia"] = lambda: enhance.adjust_hue(x, turn * 6.2832)
        grey["kornia on the chosen"] = on_chosen(lambda some: kornia.color.rgb_to_grayscale(some).expand_as(some))
        solarized["kornia on the chosen"] = on_chosen(lambda some: enhance.solarize(some, 0.5))
        blurred["kornia"] = lambda: kornia.filters.gaussian_blur2d(x, kernel[0], sigma[:, None].expand(-1, 2))
    return operations


def depthwise_blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    n, c = images.shape[:2]
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=images.device) / sigma[:, None]) ** 2)
    taps = taps.masked_fill(taps < 1e-8, 0.0)
    taps = (taps / taps.sum(dim=1, keepdim=True)).repeat_interleave(c, dim=0)[:, None]
    padded = torch.nn.functional.pad(images, [radius] * 4, mode="reflect")
    padded = padded.view(1, n * c, *padded.shape[2:])
    rows = torch.nn.functional.conv2d(padded, taps[..., None], groups=n * c)
    return torch.nn.functional.conv2d(rows, taps[:, :, None], groups=n * c).view_as(images)


def frame_forms(device: torch.device) -> Forms:
    """CURL's crop: 128 stacks of three frames, 100 to 84 pixels."""
    stacks, ids = torch.randint(0, 256, (128, 9, 100, 100), dtype=torch.uint8, device=device), torch.arange(128)
    offsets = torch.randint(0, 17, (2, 128), device=device)
    forms: Forms = {
        "random_crop_frames": lambda: random_crop_frames(stacks, 84, seed=0, step=0, ids=ids),
        "windows by index": lambda: frames_module._windows(stacks, offsets[0], offsets[1], 84, 84),
        "torchvision, stack by stack": lambda: torch.stack(
            [tv.crop(s, t, left, 84, 84) for s, t, left in zip(stacks, *offsets.tolist())]
        ),
    }
    return forms


# --- measuring ---------------------------------------------------------------------------------------------------


def photos(n: int, side: int) -> Tensor:
    """Smooth uint8 images: hue takes other paths through noise."""
    coarse = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))  # the same in every process
    return tv.resize(coarse, [side, side], antialias=True).mul(255).byte()


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--batch", type=int, default=256, help="images of 32 pixels; a sixteenth as many of 224")
    parser.add_argument("--only", choices=("views", "operations", "frames"), help="one section")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, and torchvision's processes; 0: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peers", help="folder to import kornia from")
    parser.add_argument("--json", help="write the numbers to this file")
    options = parser.parse_args(arguments)
    if options.peers:
        sys.path.append(options.peers)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    # The C library returns memory to the system until it has seen a large block freed, and every pass pays to get
    # it anew. Any training process has freed one; so that it is nobody's cost here:
    free_a_large_block()
    results: dict[str, list[dict]] = {}

    def section(title: str, forms: Forms, items: int) -> None:
        results[title] = measure(forms, rounds=options.rounds, items=items, device=device)
        print(table(title, results[title]), flush=True)

    print(f"## Augmentation: {hardware(device)}\n")
    large = max(1, options.batch // 16)
    shapes = [(options.batch, 32, 32), (large, 400, 224)]
    processes = torch.get_num_threads()
    pool = start_workers(processes) if processes > 1 and options.only in (None, "views") else None
    if options.only in (None, "views"):
        for n, side, size in shapes:
            for blur in (0.0, 0.5):
                title = f"Two views of {n} images, {side} to {size} pixels" + (", blur of half" if blur else "")
                section(title, view_forms(n, side, size, blur, device, pool), 2 * n)
    if options.only in (None, "operations"):
        for n, side, size in shapes:
            for title, forms in operation_forms(n, side, size, device).items():
                section(f"{n} images: {title}", forms, n)
    if options.only in (None, "frames"):
        section("Crop of 128 stacks, 9 x 100 x 100 to 84", frame_forms(device), 128)
    if pool is not None:
        pool.terminate()
    report = {"hardware": hardware(device), "options": vars(options), "results": results}
    if options.json:
        with open(options.json, "w") as file:
            json.dump(report, file, indent=1)
    return report


def free_a_large_block() -> None:
    torch.zeros(7_500_000)


def prepare_worker() -> None:
    torch.set_num_threads(1)
    free_a_large_block()


def start_workers(processes: int) -> Pool:
    return multiprocessing.get_context("spawn").Pool(processes, initializer=prepare_worker)


if __name__ == "__main__":
    main()
