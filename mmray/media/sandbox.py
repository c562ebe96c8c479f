"""Decoders in a process of their own, which may hang, crash or leak without harm.

The child is a fresh interpreter and not one of `multiprocessing`: those import the parent's
`__main__` again, which in a worker of a cluster is the cluster's own, heavy, start-up script.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mmray.errors import MediaError

_START_S = 120.0
"""Time that starting the child, or importing what a call needs, may take on a busy machine."""
_READY, _RESULT, _ERROR = range(3)


class Sandbox:
    """Runs functions, one at a time, in a child process; use from any thread.

    The child starts with the first call, again after a hang or crash, and anew after `max_calls`
    so that leaks of the decoders do not add up. It ends when this process ends, however that
    happens.

    Args:
        timeout_s: time limit of one call in seconds; importing the function's module is not
            counted.
        max_calls: calls after which a fresh child takes over.
    """

    def __init__(self, timeout_s: float = 60.0, max_calls: int = 1000) -> None:
        if timeout_s <= 0 or max_calls < 1:
            raise ValueError("timeout_s and max_calls must be above 0")
        self.timeout_s = timeout_s
        self.max_calls = max_calls
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._calls = 0

    def call(self, function: Callable[..., Any], *args: Any, stage: str = "open") -> Any:
        """`function(*args)`, computed in the child.

        Args:
            function: importable by its name (not from `__main__`, no lambda).
            args: picklable arguments.
            stage: stage of the `MediaError` for a hang or a crash.

        Returns:
            What the function returns, which must be picklable.

        Raises:
            MediaError: the function raised it, ran for longer than the limit, or crashed.
            Exception: whatever else the function raised, with the child's traceback as a note.
        """
        with self._lock:
            try:
                kind, value = self._exchange(function, args, stage)
            except BaseException:
                # An answer may still be on its way, which the next call must not take for its own.
                self._stop()
                raise
            self._calls += 1
            if self._calls >= self.max_calls:
                self._stop()
        if kind == _ERROR:
            raise value
        return value

    def _exchange(self, function: Callable[..., Any], args: Any, stage: str) -> tuple[int, Any]:
        request = pickle.dumps((function, args), pickle.HIGHEST_PROTOCOL)
        pipe = self._pipe or self._start()
        has_begun = self._calls > 0
        try:
            pipe.send_bytes(request)
            if not pipe.poll(_START_S):
                raise RuntimeError(f"{function}: could not be imported within {_START_S:g} s")
            kind, value = pickle.loads(pipe.recv_bytes())  # noqa: S301 (our own child)
            if kind != _READY:
                return kind, value
            has_begun = True
            if not pipe.poll(self.timeout_s):
                raise MediaError(stage, f"decoder took longer than {self.timeout_s:g} s")
            return pickle.loads(pipe.recv_bytes())  # noqa: S301
        except (EOFError, OSError):
            if not has_begun:  # no fault of the media
                raise RuntimeError(
                    f"the child process that decodes cannot start ({self._how_it_ended()}); its "
                    "errors are above"
                ) from None
            raise MediaError(stage, f"decoder crashed ({self._how_it_ended()})") from None

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        with theirs:
            code = f"from mmray.media.sandbox import serve; serve({theirs.fileno()}, {os.getpid()})"
            environment = dict(os.environ)
            # The child imports from the same places, also those that were added at run time.
            paths = [path or str(Path.cwd()) for path in sys.path]
            environment["PYTHONPATH"] = os.pathsep.join(paths)
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                env=environment,
                pass_fds=(theirs.fileno(),),
            )
        self._pipe = Connection(ours.detach())
        self._calls = 0
        return self._pipe

    def _how_it_ended(self) -> str:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.returncode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def _stop(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._pipe = self._process = None

    def close(self) -> None:
        """End the child; a later call starts a new one."""
        with self._lock:
            self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Not under the lock: nobody else holds this object any more. At the end of the interpreter
        # parts of it may be gone; the child ends then by itself.
        with contextlib.suppress(Exception):
            self._stop()


def serve(descriptor: int, parent: int) -> None:
    """The child's loop: answer calls that come through a socket until it closes.

    Args:
        descriptor: file descriptor of this side of the socket.
        parent: process whose end also ends this one, even in the middle of a call.
    """
    # Ctrl-C reaches the whole group of processes; what becomes of the child the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with Connection(descriptor) as pipe, contextlib.suppress(EOFError, ConnectionError):
        while True:
            _answer(pipe)


def _answer(pipe: Connection) -> None:
    data = pipe.recv_bytes()
    try:
        function, args = pickle.loads(data)  # noqa: S301 (from our own parent)
        pipe.send_bytes(pickle.dumps((_READY, None)))
        answer = pickle.dumps((_RESULT, function(*args)), pickle.HIGHEST_PROTOCOL)
    except MediaError as e:
        e.cause = type(e.__cause__).__name__ if e.__cause__ else ""  # not pickled itself
        answer = pickle.dumps((_ERROR, e))
    except Exception as e:
        answer = _packed_error(e)
    pipe.send_bytes(answer)


def _packed_error(error: Exception) -> bytes:
    trace = traceback.format_exc()
    try:
        error.add_note(f"In the child process:\n{trace}")
        data = pickle.dumps((_ERROR, error))
        pickle.loads(data)  # noqa: S301 (some exceptions pickle but do not come back)
        return data
    except Exception:
        return pickle.dumps((_ERROR, RuntimeError(f"in the child process:\n{trace}")))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
