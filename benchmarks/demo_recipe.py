"""Chooses the demo's recipe: variants of configs/pretrain/demo.yaml compared on validation crops, never on test crops.

python benchmarks/demo_recipe.py                          # the shipped recipe, one seed
python benchmarks/demo_recipe.py --seeds 3 --split test   # the numbers to quote, once a recipe is chosen
python benchmarks/demo_recipe.py -- --method.temperature=0.1 --optimizer.lr=0.002
"""

import argparse
import json
import time

import torch

from apps.demo import TRAIN
from apps.demo_features import NEIGHBOURS, as_array, evaluate
from apps.recipes import load_recipe
from detection.data.scenes import make_crops
from sslcore.pretrain.recipe import Recipe
from sslcore.pretrain.run import pretrain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--split", choices=["val", "test"], default="val")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("settings", nargs="*", help="settings as on the command line, after --")
    arguments = parser.parse_args()

    for seed in range(arguments.seeds):
        train = as_array(make_crops("train", TRAIN, seed=seed))
        held_out = as_array(make_crops(arguments.split, 2_500, seed=seed))
        changes = [f"--seed={seed}", f"--threads={arguments.threads}", "--probe.every_epochs=0", *arguments.settings]
        recipe = load_recipe("demo", Recipe, changes)[0]
        began = time.perf_counter()
        outcome = pretrain(recipe, None, images=train)
        seconds = time.perf_counter() - began
        scores = evaluate(outcome, train, held_out, recipe)
        print(
            json.dumps(
                {
                    "settings": arguments.settings, "seed": seed, "split": arguments.split, "neighbours": NEIGHBOURS,
                    "seconds": round(seconds, 1), "threads": arguments.threads, "loss": outcome.losses[-1][1],
                    **{s.name: {"knn": round(s.knn, 4), "linear": round(s.linear, 4)} for s in scores},
                }
            ),
            flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
