"""How known and unknown are told apart: the fitted energies, and a map of the embeddings."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from apps.report.detection.evidence import Evidence, look_again
from apps.report.detection.figures import energies, feature_map
from apps.report.detection.run import DetectionRun
from apps.report.page import Page
from detection.structures import UNKNOWN

AXES = {
    "energy": "free energy of the known classes (right: like nothing known)",
    "max_probability": "-log of the greatest known probability",
    "foreground": "-log of 1 - p(background)",
}
POINTS = 1000
FEWEST = 12
PERPLEXITY = 30


def write_decision(page: Page, run: DetectionRun) -> None:
    """Histograms of each task: what was fitted, and what the test images hold."""
    figures = []
    for task in (each["task"] for each in run.done):
        fit = run.fit(task)
        if fit is None:
            page.text(f"Task {task}: energies.json is not there, so what was fitted cannot be shown.")
            continue
        page.text(f"Task {task}: {fit['status']} {' '.join(_sentence(said) for said in fit.get('sentences', ()))}")
        if "samples" not in fit:
            continue
        seen = look_again(run, task)
        test = seen.values if seen is not None and any(map(len, seen.values.values())) else None
        figures.append((energies(fit, test, x=AXES[fit["score"]]), _caption(task, fit, seen)))
    if not figures:
        page.text("There is nothing to draw: no decision was fitted.")
        return
    page.figures(*figures)
    page.text(
        "The dashed line is where both densities are equally high: what lies to its right speaks for unknown. Whether "
        "a region is called unknown depends on its classifier's odds and on the prior, too. The upper half shows what "
        "the fit was made of, where regions taken for unknown are guesses; the lower half, where there is one, whether "
        "the line lies well. Background lies among the unknown because it looks like nothing known either: the energy "
        "does not tell objects from background, the score that ranks unknown detections has to."
    )


def _sentence(said: str) -> str:
    return f"{said[0].upper()}{said[1:]}."


def _caption(task: int, fit: Mapping[str, Any], seen: Evidence | None) -> str:
    counts = f"{fit['known_count']:,} known and {fit['unknown_count']:,} unknown regions of validation images"
    densities = ", and the fitted densities" if (fit.get("curves") or {}).get("known_density") else ""
    if fit.get("threshold") is None:
        densities += "; neither kind is the likelier anywhere in this range"
    below = (
        f"Below: the proposals of {seen.images:,} test images, each histogram with an area of 1."
        if seen is not None
        else "The detector or the test images are not there any more, so the lower half is missing."
    )
    return f"After task {task}. Above: {counts}{densities}. {_prior(fit)}{below}"


def _prior(fit: Mapping[str, Any]) -> str:
    """The prior, and what known classes pay for it."""
    if fit.get("prior") is None:
        return ""
    cost = fit.get("cost")
    if not cost or cost["map_without"] is None:
        return f"The prior of being unknown is {fit['prior']:.2f}. "
    return (
        f"The prior of being unknown is {fit['prior']:.2f}: mAP of known classes on {cost['images']:,} validation "
        f"images is {100 * cost['map_with']:.1f} with it, {100 * cost['map_without']:.1f} where nothing is called "
        "unknown. "
    )


# --- map -------------------------------------------------------------------------------------------------------------


def write_map(page: Page, run: DetectionRun, task: int) -> None:
    """Embeddings of objects in the test images, and the prototypes if there are any."""
    stored = run.embeddings(task)
    if stored is None or len(stored["labels"]) < FEWEST:
        count = 0 if stored is None else len(stored["labels"])
        page.text(f"No map: embeddings of {count} found objects were kept, and fewer than {FEWEST} make none.")
        return
    names = run.tasks.label_names(task)
    features, labels = stored["features"], stored["labels"].astype(np.int64)
    total = len(labels)
    if total > POINTS:
        chosen = np.random.default_rng(0).choice(total, POINTS, replace=False)
        features, labels = features[chosen], labels[chosen]
    prototypes = prototypes_of(run, stored, len(names))
    points = flatten(np.concatenate([features, *(vector[None] for vector in prototypes.values())]))
    stars = dict(zip(prototypes, points[len(labels) :], strict=True))
    caption = (
        f"t-SNE of the embeddings of {len(labels):,} detections that lie on an object of the test images"
        f"{f' (drawn from {total:,})' if total > len(labels) else ''}. Colour: the object's true class; hollow: an "
        "object of no class learnt so far. Neighbours here are neighbours for the network; distances between clusters, "
        "and their sizes, mean little in t-SNE. Objects that were not found are not shown."
    )
    page.figures((feature_map(points[: len(labels)], labels, names, stars), caption))
    if not prototypes:
        page.text("No prototypes: clustering was off, or had not begun.")


def prototypes_of(
    run: DetectionRun, stored: Mapping[str, npt.NDArray[Any]], labels: int
) -> dict[int, npt.NDArray[np.float64]]:
    """The prototype of each label that has one."""
    vectors, seen = stored["prototypes"], stored["prototypes_seen"].astype(bool)
    if run.recipe.clustering.loss == "none" or vectors.shape[1:] != stored["features"].shape[1:]:
        return {}
    first = labels - len(vectors)  # of ORE's compatible form background has a prototype too
    return {first + i: vectors[i] for i in np.flatnonzero(seen).tolist() if first + i >= UNKNOWN}


def flatten(vectors: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(n, d) to (n, 2) by t-SNE of the directions."""
    from sklearn.manifold import TSNE

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.maximum(lengths, 1e-12)
    perplexity = min(PERPLEXITY, math.floor((len(units) - 1) / 3))
    found: npt.NDArray[np.float64] = TSNE(init="pca", random_state=0, perplexity=perplexity).fit_transform(units)
    return found
