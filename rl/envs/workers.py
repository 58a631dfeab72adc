"""Environments in processes of their own, watched: who waits for one is told when it has died, hangs or has raised."""

import multiprocessing as mp
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper, VecEnv
from stable_baselines3.common.vec_env.subproc_vec_env import SubprocVecEnv, _worker

from sslcore.errors import EnvWorkerError, SurniaError

START_SECONDS = 180.0  # importing torch in several processes at once, on a busy machine
STEP_SECONDS = 60.0
_END_SECONDS = 5.0


class WatchedVecEnv(SubprocVecEnv):
    """stable-baselines3's SubprocVecEnv, with time-outs, liveness checks and the worker's own words.

    After any of its errors the other workers may be halfway through a step: `close` it and make a new one.

    Args:
        makers: one for each environment: functions without arguments that return it. They are pickled.
        names: how messages call the workers; "worker 0", ... if not given.
        start_method: of multiprocessing. "spawn" and "forkserver" import the main script again, which must therefore
            start under `if __name__ == "__main__":`.
        start_seconds: how long making an environment may take.
        step_seconds: how long any other answer may take; to play an episode again, for each of its steps.

    Raises:
        EnvWorkerError: from every method that waits for an answer; or what Surnia's own code raised in a worker.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], gym.Env]],
        *,
        names: Sequence[str] | None = None,
        start_method: str = "forkserver",
        start_seconds: float = START_SECONDS,
        step_seconds: float = STEP_SECONDS,
    ) -> None:
        self.waiting = self.closed = False
        self._step_seconds = step_seconds
        self.remotes: list[Any] = []
        self.processes: list[Any] = []
        context = mp.get_context(start_method if start_method in mp.get_all_start_methods() else "spawn")
        names = names or [f"worker {i}" for i in range(len(makers))]
        for maker, name in zip(makers, names, strict=True):
            ours, theirs = context.Pipe()
            # Daemons end with this process. Of any number, only the own end of the pipe is open in a worker, so that
            # one whose parent was killed reads the end of the pipe and leaves.
            process = context.Process(  # type: ignore[attr-defined]
                target=_work, args=(theirs, ours, CloudpickleWrapper(maker)), name=name, daemon=True
            )
            process.start()
            theirs.close()
            self.processes.append(process)
            self.remotes.append(_Remote(ours, process, name, step_seconds))
        try:
            # All of them: a broken one is to be found now, and not in the first step.
            for remote in self.remotes:
                remote.send(("get_spaces", None))
            spaces = [remote.recv(start_seconds) for remote in self.remotes]
        except SurniaError:
            self.close()
            raise
        VecEnv.__init__(self, len(makers), *spaces[0])

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """As stable-baselines3's; `EpisodeSeeds.restore` takes as long as its episode, and is given that time."""
        steps = len(method_args[0]["actions"]) if method_name == "restore" else 0
        remotes = self._get_target_remotes(indices)
        for remote in remotes:
            remote.send(("env_method", (method_name, method_args, method_kwargs)))
        return [remote.recv((1 + steps) * self._step_seconds) for remote in remotes]

    def close(self) -> None:
        """End the workers: asked first, killed after 5 seconds; never waits for an answer."""
        if self.closed:
            return
        self.closed = True
        for remote in self.remotes:
            with suppress(SurniaError, OSError):
                remote.send(("close", None))
        end = time.monotonic() + _END_SECONDS
        for process, remote in zip(self.processes, self.remotes, strict=True):
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            remote.close()


class _Remote:
    """Our end of a worker's pipe. Where SubprocVecEnv waits, this watches."""

    def __init__(self, connection: Connection, process: Any, name: str, seconds: float) -> None:
        self._connection, self._process, self._name, self._seconds = connection, process, name, seconds
        self._asked = ""

    def send(self, message: tuple[str, Any]) -> None:
        self._asked = message[0]
        try:
            self._connection.send(message)
        except (BrokenPipeError, ConnectionResetError) as error:
            # What it said before it left is the better explanation.
            self._read_last_words()
            raise self._died() from error

    def recv(self, seconds: float | None = None) -> Any:
        seconds = self._seconds if seconds is None else seconds
        ready = wait([self._connection, self._process.sentinel], seconds)
        if not ready:
            self._process.kill()
            raise EnvWorkerError(
                f"{self._name} did not answer '{self._asked}' within {seconds:g} seconds and was stopped: it hangs, or "
                "needs a longer time limit"
            )
        try:
            # Also when only the process's end was reported: its answer may lie in the pipe.
            answer = self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._died() from error
        if isinstance(answer, _Failure):
            raise answer.as_error(self._name)
        return answer

    def close(self) -> None:
        self._connection.close()

    def _read_last_words(self) -> None:
        with suppress(EOFError, OSError):
            while self._connection.poll():
                answer = self._connection.recv()
                if isinstance(answer, _Failure):
                    raise answer.as_error(self._name)

    def _died(self) -> EnvWorkerError:
        self._process.join(_END_SECONDS)
        return EnvWorkerError(f"the process of {self._name} died at '{self._asked}': {_ending(self._process.exitcode)}")


class _Failure:
    """What a worker sends instead of an answer when its environment raised."""

    def __init__(self, error: BaseException) -> None:
        # Our own errors already say where they come from, and keep their kind: a setting is still to be mended.
        self.kind = type(error) if isinstance(error, SurniaError) else EnvWorkerError
        self.said = str(error) if isinstance(error, SurniaError) else f"raised {type(error).__name__}: {error}"
        self.trace = "".join(traceback.format_exception(error))

    def as_error(self, name: str) -> SurniaError:
        error = self.kind(f"{name}: {' '.join(self.said.split())}")
        error.add_note(f"In the worker:\n{self.trace}")
        return error


def _work(remote: Connection, parent_remote: Connection, maker: CloudpickleWrapper) -> None:
    """A worker's life: stable-baselines3's loop, whose exceptions are sent before the process ends."""
    # The parent finishes its step and saves when it is interrupted; the signal must not end its environments before.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        with suppress(OSError):
            os.setpgrp()
    try:
        _worker(remote, parent_remote, maker)
    except BaseException as error:
        with suppress(OSError):
            remote.send(_Failure(error))


def _ending(code: int | None) -> str:
    if code is None:
        return "it closed its pipe"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"ended by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")
    return f"it left with exit code {code}"
