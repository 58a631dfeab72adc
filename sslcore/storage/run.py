"""A run directory: everything one run has produced, and a lock that keeps a second writer out.

    my-run/
        recipe.yaml      the resolved recipe; written last, so that a directory without it is not a run yet
        run.json         versions, git revision, command, seed, times, status
        metrics.jsonl    one JSON object a line: {"step": 10, "time": ..., "loss": ...}
        checkpoints/     step-00000010/, ... (see checkpoint.py)
        run.lock         held while a process writes here; anybody may read

Needs no torch, so that the command line can refuse before anything heavy is imported.
"""

import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from sslcore.errors import CheckpointError, ConfigError, RunLocked, SurniaError
from sslcore.storage import files, folders
from sslcore.storage.messages import show_path

Status = Literal["running", "finished", "stopped", "failed"]

_LOCK, _RECIPE, _RUN, _METRICS, _CHECKPOINTS = "run.lock", "recipe.yaml", "run.json", "metrics.jsonl", "checkpoints"
_PACKAGES = ("surnia", "torch", "torchvision", "pytorch-lightning", "numpy", "pillow", "safetensors")
# Named where they are installed: which of them a result depends on is not known here.
_PERHAPS = (
    "scipy", "scikit-learn", "pycocotools", "detectron2", "stable-baselines3", "gymnasium", "dm-control", "mujoco",
    "av",
)  # fmt: skip
_FILE_LIMIT = 1 << 30


class RunDirectory:
    """The directory of a run that this process writes. Make one with `create` or `open`; close it, or use `with`.

    Leaving the `with` block sets the status: "finished", or "stopped" after KeyboardInterrupt, or "failed" after
    another exception, unless it was set before.

    Attributes:
        path: the directory.
        checkpoints: the folder for checkpoints; the first one makes it.
        cleaned: sentences about what a killed predecessor left and this one cleared.
    """

    def __init__(self, path: Path, lock: "RunLock") -> None:
        self.path, self.checkpoints = path, path / _CHECKPOINTS
        self.cleaned: list[str] = []
        self._lock = lock
        self._facts: dict[str, Any] = {}

    @classmethod
    def create(cls, path: str | os.PathLike[str], *, recipe: str, command: Sequence[str], seed: int) -> Self:
        """Starts a run in a new or empty directory.

        Args:
            path: the directory; parents are created.
            recipe: the resolved recipe, YAML.
            command: the command line.
            seed: the run's seed.

        Raises:
            ConfigError: there is a run already, or something else.
            RunLocked: another process is writing there.
            CheckpointError: the operating system refuses.
        """
        run = cls._locked(Path(path), create=True)
        try:
            _refuse_if_taken(run.path)
            run._sweep()
            run.note(**_first_facts(command, seed))
            files.write_text(run.path / _RECIPE, recipe)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, command: Sequence[str] | None = None, recipe: str | None = None
    ) -> Self:
        """Takes up a run where it was left; what a killed predecessor left half-written is cleared.

        Args:
            path: the directory.
            command: the command line that resumes it; kept in run.json under "resumed".
            recipe: the recipe from now on, YAML; None: as it was.

        Raises:
            ConfigError: there is no run.
            RunLocked: another process is writing there.
            CheckpointError: run.json is damaged, or the operating system refuses.
        """
        path = Path(path)
        if not (path / _RECIPE).is_file():
            raise ConfigError(
                f"there is no run in {show_path(path)} to resume; start one without --resume, or check the path"
            )
        run = cls._locked(path, create=False)
        try:
            run._sweep()
            run._facts = read_run(path)
            session = {"at": _now(), "command": list(command or ()), **surroundings()}
            run.note(status="running", ended=None, resumed=[*run._facts.get("resumed", ()), session])
            if recipe is not None:
                files.write_text(path / _RECIPE, recipe)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def _locked(cls, path: Path, *, create: bool) -> Self:
        if create:
            if path.exists() and not path.is_dir():
                raise ConfigError(f"{show_path(path)} is a file, not a folder; choose another --run name")
            folders.make_folder(path)
        return cls(path, RunLock(path / _LOCK))

    def _sweep(self) -> None:
        self.cleaned = folders.sweep_temporaries(self.path) + folders.sweep_temporaries(self.checkpoints)

    def note(self, **facts: Any) -> None:
        """Adds plain values to run.json, in place of earlier ones of these names: what the run found out or chose.

        Raises:
            CheckpointError: it cannot be written.
        """
        self._facts |= facts
        files.write_json(self.path / _RUN, self._facts)

    def log_metrics(self, step: int, **values: Any) -> None:
        """Adds a line to metrics.jsonl: the step, the time (seconds since 1970), and the values.

        Args:
            step: the step they belong to.
            values: numbers, texts, or 0-d tensors and arrays, which are read back to the host here.

        Raises:
            CheckpointError: the line cannot be written.
        """
        line = {"step": int(step), "time": round(time.time(), 3)} | {k: _plain(v) for k, v in values.items()}
        files.append_line(self.path / _METRICS, json.dumps(line, allow_nan=False))

    def rewind_metrics(self, step: int) -> None:
        """Drops the lines of steps after `step`: a resumed run makes these steps again."""
        path = self.path / _METRICS
        if path.exists():
            kept = [json.dumps(_jsonable(line)) + "\n" for line in read_metrics(self.path) if line["step"] <= step]
            files.write_text(path, "".join(kept))

    def set_status(self, status: Status) -> None:
        """Notes in run.json how the run stands; all but "running" also note the time of the end."""
        self.note(status=status, ended=None if status == "running" else _now())

    def close(self) -> None:
        """Releases the lock. The status stays as it is."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._facts.get("status") != "running":
                return
            if error is None:
                self.set_status("finished")
            else:
                # A full disk is often why we are here; the first error is the one to show.
                with contextlib.suppress(SurniaError):
                    self.set_status("stopped" if isinstance(error, KeyboardInterrupt) else "failed")
        finally:
            self.close()


# --- the lock ----------------------------------------------------------------------------------------------------


class RunLock:
    """An exclusive lock (flock) that the kernel releases when its holder ends, however that happens.

    The file also tells who holds it, for the message to others only: whether it is held is the kernel's answer, so
    neither a dead owner's entry nor its process number given to another process can keep anybody out.

    Raises:
        RunLocked: another process holds it.
        CheckpointError: it cannot be opened, or the file system has no locks.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = files.open_shared(path)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _describe_owner(os.pread(self._descriptor, 4096, 0))
            self._close()
            raise RunLocked(
                f"{show_path(path.parent)} is being written by {owner}; wait until it ends, stop it, or choose "
                "another --run name"
            ) from error
        except OSError as error:
            self._close()
            raise CheckpointError(
                f"cannot lock {show_path(path)}: {(error.strerror or str(error)).lower()}; put the run on a local disk"
            ) from error
        entry = {"pid": os.getpid(), "started": _start_time(os.getpid()), "host": platform.node(), "since": _now()}
        files.overwrite(self._descriptor, json.dumps(entry) + "\n")
        _held.add(self)

    def release(self) -> None:
        """Gives the lock up; a second call does nothing."""
        if self._descriptor is not None:
            with contextlib.suppress(SurniaError):
                files.overwrite(self._descriptor, "")
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_held: "weakref.WeakSet[RunLock]" = weakref.WeakSet()


def _forget_locks() -> None:
    """In a forked child: the lock is the parent's, and must not outlive it in an orphaned loader worker."""
    for lock in list(_held):
        lock._close()


os.register_at_fork(after_in_child=_forget_locks)


def _start_time(pid: int) -> str | None:
    """When a process started, in the kernel's ticks since boot; None if it is not there or the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


def _describe_owner(entry: bytes) -> str:
    try:
        owner = json.loads(entry)
        pid, since, host = int(owner["pid"]), str(owner["since"]), str(owner["host"])
        if host == platform.node() and _start_time(pid) != owner["started"]:
            return "another process"  # the entry is a dead predecessor's; the living one has not written its own yet
        return show_path(f"process {pid} on {host} (since {since})")
    except (ValueError, LookupError, TypeError):
        return "another process"


# --- what a run says of itself -----------------------------------------------------------------------------------


def read_run(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a run's run.json; for anybody, at any time.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    file = Path(path) / _RUN
    remedy = "give a run's directory, or restore that file"
    data = files.read_file(file, limit=_FILE_LIMIT, error=CheckpointError, remedy=remedy)
    try:
        facts = json.loads(data)
        if type(facts) is not dict:
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{show_path(file)} is damaged ({error}); restore it from a copy") from error
    return facts


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, in order; [] if there are none yet. For anybody, at any time.

    A last line that is only half there (it is being written, or its writer was killed) is left out. Nan and infinity,
    which JSON does not have and the file holds as texts, are numbers again.

    Raises:
        CheckpointError: the file cannot be read.
    """
    file = Path(path) / _METRICS
    if not file.exists():
        return []
    data = files.read_file(file, limit=_FILE_LIMIT, error=CheckpointError, remedy="give a run's directory")
    lines = []
    for line in data.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            values = json.loads(line)
            if type(values) is dict and type(values.get("step")) is int:
                lines.append({k: _NUMBERS.get(v, v) if type(v) is str else v for k, v in values.items()})
    return lines


_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _jsonable(line: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _plain(v) for k, v in line.items()}


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"a metric is a number or a text, not a {type(value).__name__}")


def _refuse_if_taken(path: Path) -> None:
    shown = show_path(path)
    if (path / _RECIPE).exists():
        raise ConfigError(
            f"{shown} already holds a run, which is never overwritten; continue it with --resume, or give the new one "
            "another --run name"
        )
    # What a process leaves that was killed while it created the run is no reason to refuse.
    own = {_LOCK, _RUN, _CHECKPOINTS}
    foreign = sorted(p.name for p in path.iterdir() if p.name not in own and not folders.is_temporary(p))
    foreign += sorted(f"{_CHECKPOINTS}/{p.name}" for p in (path / _CHECKPOINTS).glob("[!.]*"))
    if foreign:
        raise ConfigError(
            f"{shown} is not empty and not a run (it holds {show_path(foreign[0])}); give another --run name, or "
            "the path of a run to continue with --resume"
        )


def _first_facts(command: Sequence[str], seed: int) -> dict[str, Any]:
    return {
        "status": "running", "started": _now(), "ended": None, "command": list(command), "seed": seed,
        **surroundings(), "resumed": [],
    }  # fmt: skip


def surroundings() -> dict[str, Any]:
    """What a result was made with and where: versions, git revision, machine, process; plain values for JSON."""
    there = {name: version for name in _PERHAPS if (version := _version(name)) is not None}
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES} | there,
        "git": _git_revision(), "platform": platform.platform(), "host": platform.node(), "pid": os.getpid(),
        "python": sys.executable,
    }  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Commit of the checkout Surnia runs from, with "-dirty" if files differ from it; None if it is installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # an installed copy may lie inside somebody else's checkout
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
