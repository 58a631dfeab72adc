"""The demo's drawings: taken once from the wheel of the `arcade` package, then from the cache, offline.

The wheel is fetched with pip (never installed), its SHA-256 is pinned, and only the drawings of `kenney.TABLE` and
their licences are taken out of it. A wheel already at hand serves as well: give `art_wheel=` or set SURNIA_ART_WHEEL.
"""

import itertools
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from detection.data.scenes import kenney
from detection.data.scenes.cache import build_folder, cache_folder, file_sha256, read_manifest
from detection.data.scenes.catalogue import Drawing, read_sprite
from sslcore.errors import DataError

WHEEL_VARIABLE = "SURNIA_ART_WHEEL"
_MAX_FILE = 1_000_000  # bytes; the largest drawing used has 7 000
_PIP_SECONDS = 600

Table = Mapping[str, Mapping[str, tuple[str, ...]]]


def kenney_folder(*, art_wheel: str | Path | None = None, cache: str | Path | None = None) -> Path:
    """The folder with the demo's drawings, `<super-category>/<class>/<drawing>.png`; made at the first call.

    Args:
        art_wheel: the arcade wheel, if it is at hand; else the file SURNIA_ART_WHEEL names, else pip fetches it.
        cache: folder to keep the drawings in; else `cache_folder()`.

    Raises DataError if the package index cannot be reached or the wheel is not the pinned one.
    """
    target = (Path(cache) if cache else cache_folder()) / f"kenney-arcade-{kenney.VERSION}"
    request = {"arcade": kenney.VERSION, "sha256": kenney.SHA256, "drawings": sorted(wanted(kenney.TABLE))}
    manifest = read_manifest(target)
    if manifest is not None and manifest["request"] == request:
        return target
    art_wheel = art_wheel or os.environ.get(WHEEL_VARIABLE) or None
    with tempfile.TemporaryDirectory(prefix="surnia-art-") as temporary:
        wheel = Path(art_wheel).expanduser() if art_wheel else download_wheel(Path(temporary))
        check_wheel(wheel, kenney.SHA256)
        build_folder(target, request, lambda folder: extract_art(wheel, folder, kenney.TABLE))
    return target


def read_kenney(folder: Path) -> list[Drawing]:
    """The drawings in a folder made by `kenney_folder`, classes in the table's order."""
    return [
        Drawing(f"{class_name}/{Path(name).stem}", class_name, group, read_sprite(folder / name))
        for name, (group, class_name, _) in wanted(kenney.TABLE).items()
    ]


def wanted(table: Table) -> dict[str, tuple[str, str, str]]:
    """File in the cache -> (super-category, class, member of the wheel)."""
    return {
        f"{group}/{class_name}/{PurePosixPath(member).name}": (group, class_name, member)
        for group, classes in table.items()
        for class_name, patterns in classes.items()
        for pattern in patterns
        for member in (f"{kenney.ROOT}/{path}.png" for path in _expand(pattern))
    }


def download_wheel(folder: Path, *, seconds: float = _PIP_SECONDS) -> Path:
    """Fetch the pinned wheel with pip into `folder`; pip checks the hash, too."""
    pin = folder / "requirements.txt"
    pin.write_text(f"arcade=={kenney.VERSION} --hash=sha256:{kenney.SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--quiet", "--dest", str(folder), "-r", str(pin)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise DataError(_unreachable(f"no answer within {seconds:.0f} s")) from error
    except OSError as error:
        raise DataError(_unreachable(str(error))) from error
    wheels = list(folder.glob("arcade-*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "pip said nothing")
        raise DataError(_unreachable(said.removeprefix("ERROR: ")))
    return wheels[0]


def check_wheel(wheel: Path, sha256: str) -> None:
    """DataError unless `wheel` is a file with this SHA-256."""
    if not wheel.is_file():
        raise DataError(f"the art wheel {wheel} does not exist: name arcade-{kenney.VERSION}-py3-none-any.whl")
    found = file_sha256(wheel)
    if found != sha256:
        raise DataError(
            f"{wheel} is not the wheel of arcade {kenney.VERSION} that Surnia pins (its SHA-256 is {found[:12]}..., "
            f"not {sha256[:12]}...): fetch it anew with `pip download --no-deps arcade=={kenney.VERSION}`"
        )


def extract_art(wheel: Path, folder: Path, table: Table) -> None:
    """Write the table's drawings (and the licences) from `wheel` into `folder`.

    Nothing is written under a name that the wheel chose: members are looked up by the table's names and read up to a
    cap.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, (_, _, member) in wanted(table).items():
                _write(folder / name, _read_member(archive, member, wheel))
            for licence in kenney.LICENCES:
                member = f"{kenney.ROOT}/{licence}"
                if member in archive.namelist():
                    name = "licence-" + licence.replace("/", "-")
                    _write(folder / name, _read_member(archive, member, wheel))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"{wheel} is no readable wheel ({error}): fetch it anew") from error


def _read_member(archive: zipfile.ZipFile, member: str, wheel: Path) -> bytes:
    try:
        info = archive.getinfo(member)
    except KeyError as error:
        raise DataError(f"{wheel} lacks {member}: it is not the wheel of arcade {kenney.VERSION}") from error
    with archive.open(info) as file:
        content = file.read(_MAX_FILE + 1)  # the size in the directory of a zip may lie
    if len(content) > _MAX_FILE:
        raise DataError(
            f"{member} in {wheel} is larger than {_MAX_FILE} bytes, no drawing of arcade {kenney.VERSION} is"
        )
    return content


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _expand(pattern: str) -> Iterator[str]:
    """`a{b,c}` -> ab, ac."""
    parts = [part.split(",") if k % 2 else [part] for k, part in enumerate(re.split(r"\{([^}]*)\}", pattern))]
    return ("".join(chosen) for chosen in itertools.product(*parts))


def _unreachable(reason: str) -> str:
    return (
        f"could not fetch the demo's art, the wheel of arcade {kenney.VERSION} ({reason}): where no package index can "
        f"be reached, copy arcade-{kenney.VERSION}-py3-none-any.whl there and set {WHEEL_VARIABLE}=/path/to/it.whl, "
        "or from Python give a folder of your own drawings, make_crops(..., sprites=folder)"
    )
