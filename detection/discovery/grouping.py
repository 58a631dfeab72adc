"""Groups of unknown objects that look alike to the network."""

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from detection.data.annotations import Indices
from detection.discovery.records import read_json
from sslcore.errors import DataError
from sslcore.storage import files
from sslcore.storage.messages import show_path

GROUPS = "groups.json"
SCHEMA = 1
REST = 0
"""Number of the group of those that fit no other."""

_MOST = 0.5  # share of all objects above which a group is no group


@dataclass(frozen=True, eq=False)
class Group:
    """Objects that look alike.

    Attributes:
        number: from 1, by falling size; `REST` for what fits no group.
        members: indices of the objects, the nearest to the group's centre first.
        likeness: (m,) cosine of each member with the centre, in the same order; NaN without a usable embedding.
    """

    number: int
    members: Indices
    likeness: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.members)


@dataclass(frozen=True, eq=False)
class Grouping:
    """All groups, largest first, the rest (if there is one) last; `notes` say what a person should know."""

    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[Group, ...]:
        """The groups without the rest, which is none."""
        return tuple(group for group in self.groups if group.number != REST)

    @property
    def rest(self) -> Group | None:
        """What fits no group; None if all fits one."""
        return next((group for group in self.groups if group.number == REST), None)

    def counted(self) -> str:
        """How many groups there are and how much is left over, as "4 groups and a rest of 12 that fit none"."""
        kinds = count_groups(len(self.kinds))
        if self.rest is None:
            return kinds
        rest = f"a rest of {len(self.rest):,} that {'fits' if len(self.rest) == 1 else 'fit'} none"
        return f"{kinds} and {rest}" if self.kinds else rest.replace("none", "no group")

    @property
    def fingerprint(self) -> str:
        """Changes with any group: ties a file of names to the groups it was written for."""
        return hashlib.sha256(json.dumps(self._plain()).encode()).hexdigest()[:12]

    def _plain(self) -> list[dict[str, Any]]:
        return [{"number": group.number, "members": group.members.tolist()} for group in self.groups]

    def save(self, folder: Path) -> None:
        """Write `groups.json`."""
        groups = [
            {**plain, "likeness": [round(x, 4) if np.isfinite(x) else None for x in group.likeness.tolist()]}
            for plain, group in zip(self._plain(), self.groups)
        ]
        lines = ",".join(f"\n  {json.dumps(group, allow_nan=False)}" for group in groups)
        notes = json.dumps(list(self.notes))
        files.write_text(folder / GROUPS, f'{{\n "schema": {SCHEMA},\n "notes": {notes},\n "groups": [{lines}]\n}}\n')

    @classmethod
    def load(cls, folder: str | Path, *, objects: int) -> "Grouping":
        """Read what `save` wrote for a collection of so many objects.

        Raises:
            DataError: the file is missing, damaged, or was written for other objects.
        """
        path = Path(folder) / GROUPS
        value = read_json(path, remedy="group the unknown objects anew")
        try:
            if value["schema"] != SCHEMA:
                raise DataError(f"{show_path(path)} was written by another version of Surnia; group anew")
            groups = tuple(
                Group(
                    int(group["number"]),
                    np.array(group["members"], dtype=np.int64).reshape(-1),
                    np.array([np.nan if x is None else x for x in group["likeness"]], dtype=np.float64),
                )
                for group in value["groups"]
            )
            notes = tuple(str(note) for note in value["notes"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{show_path(path)} does not hold groups; group anew") from error
        members = np.concatenate([group.members for group in groups] or [np.zeros(0, dtype=np.int64)])
        if not np.array_equal(np.sort(members), np.arange(objects)):
            raise DataError(
                f"the groups in {show_path(path)} are not those of the {objects} objects beside it; group anew"
            )
        return cls(groups, notes)


def count_groups(number: int) -> str:
    """ "1 group", "4 groups"."""
    return "1 group" if number == 1 else f"{number} groups"


def group_embeddings(
    embeddings: npt.ArrayLike,
    *,
    method: Literal["hdbscan", "kmeans"] = "hdbscan",
    groups: int | None = None,
    min_group: int = 5,
    components: int | None = 32,
    seed: int = 0,
) -> Grouping:
    """Group embeddings by direction. The same input gives the same groups.

    HDBSCAN (Campello et al., 2013) finds how many groups there are and leaves out what belongs to none; where that
    comes to one group of most objects, as it does where kinds run into each other, its smallest groups are taken.
    k-means makes as many as it is told and puts everything into one of them.

    Args:
        embeddings: (n, d). Rows that are not finite, or zero, have no direction and go to the rest.
        method: see above.
        groups: how many, for k-means.
        min_group: fewest members of a group, for HDBSCAN. With fewer objects than that, all are one group.
        components: principal components that groups are looked for in, because densities mean little in hundreds of
            dimensions; None: all dimensions.
        seed: of k-means' first centres.

    Raises:
        DataError: k-means is to make more groups than there are objects to group.
        ValueError: an argument is out of its range.
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"embeddings are (n, d), not {rows.shape}")
    if min_group < 2 or (components is not None and components < 1):
        raise ValueError(f"min_group is at least 2 and components at least 1, not {min_group} and {components}")
    if (method == "kmeans") != (groups is not None) or (groups is not None and groups < 1):
        raise ValueError(
            f"the number of groups is given for k-means, and for nothing else; method {method!r}, {groups}"
        )
    units, usable = _directions(rows)
    notes = []
    if not usable.all():
        notes.append(
            f"{(~usable).sum()} of {len(rows)} objects have an embedding without a direction: they fit no group"
        )
    labels = np.full(len(rows), -1)
    points = _principal(units[usable], components)
    if method == "kmeans":
        assert groups is not None
        labels[usable] = _kmeans(points, groups, seed)
    elif len(points):
        labels[usable] = _hdbscan(points, min_group)
        if len(points) < min_group:
            notes.append(
                f"{len(points)} objects are too few to be grouped (min_group is {min_group}): they are one group"
            )
        elif (labels < 0).all():
            notes.append("no group stands out: name a number of groups, or gather more pictures")
    return Grouping(_sorted(labels, units, usable), tuple(notes))


def _directions(rows: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Unit vectors, and which of the rows have one."""
    finite = np.asarray(np.isfinite(rows).all(axis=1))
    rows = np.where(finite[:, None], rows, 0.0)
    # By the largest entry first, so that squares neither overflow nor vanish.
    largest = np.abs(rows).max(axis=1, initial=0.0, keepdims=True)
    rows = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0), finite & (largest[:, 0] > 0)


def _principal(units: npt.NDArray[np.float64], components: int | None) -> npt.NDArray[np.float64]:
    if components is None or min(units.shape) <= components:
        return units
    from sklearn.decomposition import PCA

    return PCA(components, svd_solver="covariance_eigh").fit_transform(units)


def _hdbscan(points: npt.NDArray[np.float64], min_group: int) -> npt.NDArray[np.int64]:
    if len(points) < min_group:
        return np.zeros(len(points), dtype=np.int64)
    from sklearn.cluster import HDBSCAN

    def fit(**more: Any) -> npt.NDArray[np.int64]:
        # Fewer samples for a core point than for a group: less is thrown to the rest, and a person looks at it anyway.
        return HDBSCAN(min_cluster_size=min_group, min_samples=max(2, min_group // 2), copy=True, **more).fit_predict(
            points
        )

    labels = fit()
    if (labels < 0).all():
        return fit(allow_single_cluster=True)  # all of one kind is not "no kind"
    if np.bincount(labels[labels >= 0]).max() <= _MOST * len(points):
        return labels
    # Where kinds run into each other the most stable group is nearly everything; the tree's leaves are small and alike.
    return fit(cluster_selection_method="leaf")


def _kmeans(points: npt.NDArray[np.float64], groups: int, seed: int) -> npt.NDArray[np.int64]:
    if groups > len(points):
        raise DataError(
            f"{groups} groups cannot be made of {len(points)} objects; ask for fewer, or gather more pictures"
        )
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Objects that are exactly alike leave fewer groups than asked for, which shows.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(groups, n_init=10, random_state=seed).fit_predict(points)


def _sorted(
    labels: npt.NDArray[np.int64], units: npt.NDArray[np.float64], usable: npt.NDArray[np.bool_]
) -> tuple[Group, ...]:
    """Groups by falling size (ties: the one with the earliest object first), the rest last."""
    kinds = [np.flatnonzero(labels == label) for label in np.unique(labels[labels >= 0])]
    kinds.sort(key=lambda members: (-len(members), members[0]))
    groups = [_from_centre(number, members, units, usable) for number, members in enumerate(kinds, start=1)]
    rest = np.flatnonzero(labels < 0)
    return (*groups, _from_centre(REST, rest, units, usable)) if len(rest) else tuple(groups)


def _from_centre(number: int, members: Indices, units: npt.NDArray[np.float64], usable: npt.NDArray[np.bool_]) -> Group:
    """A group with its members by falling cosine to the mean direction; those without a direction last."""
    centre = units[members].sum(axis=0)
    length = np.linalg.norm(centre)
    likeness = np.asarray(units[members] @ (centre / length if length > 0 else centre))
    likeness[~usable[members]] = np.nan
    # Rounded, so that equal embeddings stay in their order whatever the last bit of a sum says.
    order = np.argsort(-np.nan_to_num(likeness.round(9), nan=-2.0), kind="stable")
    return Group(number, members[order], likeness[order])
