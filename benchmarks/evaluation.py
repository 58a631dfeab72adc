"""What it costs to score detections: 10 000 images, 100 detections in each, 81 classes, both modes.

    python benchmarks/evaluation.py                      # needs 1 GB
    python benchmarks/evaluation.py --images 1000 --json result.json

Everything is random but shaped like a test set: objects of skewed class frequency, of which a part is found (by boxes a
little off), the rest of the detections anywhere. Prints the seconds of `evaluate` (the median of three) without COCO's
AP, which pycocotools computes and which needs minutes at this size; and the highest memory of the process.
"""

import argparse
import json
import resource
import time

import numpy as np

from detection.evaluation import DetectionArrays, GroundTruth, evaluate
from detection.tasks import TaskSet

CLASSES, TASKS, SIDE = 80, 4, 640.0


def scene(images: int, per_image: int, seed: int) -> tuple[GroundTruth, DetectionArrays, TaskSet]:
    """Objects (7 per image), detections, and four tasks of 20 classes; scored after the second."""
    random = np.random.default_rng(seed)
    names = tuple(f"class {k}" for k in range(CLASSES))
    tasks = TaskSet("random", tuple(names[start : start + CLASSES // TASKS] for start in range(0, CLASSES, 20)))

    count = 7 * images
    box_image = np.sort(random.integers(images, size=count))
    boxes = anywhere(random, count)
    category = np.minimum(random.zipf(1.5, size=count) - 1, CLASSES - 1)
    none = np.zeros(0, dtype=np.int64)
    truth = GroundTruth(
        tuple(range(1, images + 1)),
        tuple(f"{i:012}.jpg" for i in range(images)),
        names,
        tuple(range(1, CLASSES + 1)),
        box_image,
        boxes,
        category,
        random.random(count) < 0.01,
        np.zeros(count, dtype=bool),
        none,
        np.zeros((0, 4)),
    )
    total = images * per_image
    image = np.repeat(np.arange(images), per_image)
    found, label = anywhere(random, total), random.integers(41, size=total)  # 0 is unknown
    hits = random.random(total) < 0.2  # these lie on an object of their image
    first = np.searchsorted(box_image, image)
    many = np.searchsorted(box_image, image, side="right") - first
    hits &= many > 0
    chosen = (first + random.integers(1 << 30, size=total) % np.maximum(many, 1))[hits]
    found[hits] = boxes[chosen] + random.normal(scale=4.0, size=(len(chosen), 4))
    label[hits] = np.where(category[chosen] < 40, category[chosen] + 1, 0)
    found[:, 2:] = np.maximum(found[:, :2], found[:, 2:])
    energies = random.normal(size=total)
    return truth, DetectionArrays(image + 1, label, found, random.random(total), energies), tasks


def anywhere(random: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) boxes within the picture."""
    size = random.uniform(16, 200, size=(count, 2))
    corner = random.random((count, 2)) * (SIDE - size)
    return np.concatenate([corner, corner + size], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--per-image", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="write the numbers here")
    args = parser.parse_args()
    truth, detections, tasks = scene(args.images, args.per_image, seed=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result = {"images": args.images, "detections": len(detections), "objects": len(truth.boxes)}
    for mode in ("strict", "ore"):
        seconds, cpu = [], []
        for _ in range(args.rounds):
            start, start_cpu = time.perf_counter(), time.process_time()
            found = evaluate(truth, detections, tasks, 2, mode=mode, coco=False)
            seconds.append(time.perf_counter() - start)
            cpu.append(time.process_time() - start_cpu)
        took, worked = float(np.median(seconds)), float(np.median(cpu))
        result |= {f"{mode}_seconds": round(took, 3), f"{mode}_cpu_seconds": round(worked, 3)}
        print(f"{mode:6} {took:6.2f} s ({worked:.2f} s of processor time)   U-Recall {found['u_recall']:.4f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result |= {"peak_mb": round(peak), "input_mb": round(before)}
    print(f"highest memory of the process {peak:.0f} MB, {before:.0f} MB of them before the first call")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
