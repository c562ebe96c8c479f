"""Decoders in a process of their own, which may hang, crash, leak or swell without harm.

The child is a fresh interpreter and not one of `multiprocessing`: those import the parent's
`__main__` again, which in a worker of a cluster is the cluster's own, heavy, start-up script.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mmray.errors import MediaError

MEMORY_BYTES = 3 << 30
"""Half as much again as the largest picture that is taken needs: 2.0 GB for 100 million pixels of
32 bits. A video of 7680x4320 needs 0.6 GB."""
_FILE_BYTES = 256 << 20
"""Largest file that a child may write: decoders write none, but their messages go to a log."""
_START_S = 120.0
"""Time that starting the child, or importing what a call needs, may take on a busy machine."""
_READY, _RESULT, _ERROR, _MEMORY = range(4)


class Sandbox:
    """Runs functions, one at a time, in a child process; use from any thread.

    The child starts with the first call, again after a hang or crash, and anew after `max_calls`
    so that leaks of the decoders do not add up. It ends when this process ends, however that
    happens.

    A crash may be chance: the system ends processes when memory runs out, and so do people. A
    time-out may be due to a slow or stopped machine, and memory may have run out because of what
    calls before had leaked. Pipelines, which have time, ask for further `attempts` therefore;
    only a file that fails again and again in fresh children is at fault.

    Args:
        timeout_s: time limit of one call in seconds; importing the function's module is not
            counted.
        max_calls: calls after which a fresh child takes over.
        attempts: how often a call is tried that crashes the child. One that takes too long or too
            much memory is tried twice at most, since that is dear and seldom chance.
        memory_bytes: most memory that the child may have. A machine needs that much for each
            of its decoders when all meet a decompression bomb at once.
    """

    def __init__(
        self,
        timeout_s: float = 60.0,
        max_calls: int = 1000,
        attempts: int = 1,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        if timeout_s <= 0 or min(max_calls, attempts, memory_bytes) < 1:
            raise ValueError("timeout_s, max_calls, attempts and memory_bytes must be above 0")
        self.timeout_s = timeout_s
        self.max_calls = max_calls
        self.attempts = attempts
        self.memory_bytes = memory_bytes
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
            MediaError: the function raised it, or in all attempts ran for longer than the limit,
                took too much memory, or crashed.
            RuntimeError: the child cannot start.
            Exception: whatever else the function raised, with the child's traceback as a note.
        """
        request = pickle.dumps((function, args), pickle.HIGHEST_PROTOCOL)
        with self._lock:
            try:
                kind, value = self._try(request, stage)
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

    def _try(self, request: bytes, stage: str) -> tuple[int, Any]:
        failures: Counter[str] = Counter()
        while True:
            try:
                return self._exchange(request)
            except _Failure as failure:
                self._stop()
                failures[failure.kind] += 1
                times = failures[failure.kind]
                most = self.attempts if failure.kind == "crash" else min(self.attempts, 2)
                # In a fresh child nothing had leaked: the call itself took the memory.
                if times >= most or (failure.kind == "memory" and not self._calls):
                    raise failure.error(stage, times) from None

    def _exchange(self, request: bytes) -> tuple[int, Any]:
        pipe = self._pipe or self._start()
        # A child that has answered before could start: what ends it now is the media.
        has_begun = self._calls > 0
        try:
            pipe.send_bytes(request)
            kind, value = _receive(pipe, _START_S)
            if kind == _READY:
                has_begun = True
                kind, value = _receive(pipe, self.timeout_s)
        except (TimeoutError, BlockingIOError):
            detail = f"{self.timeout_s:g} s" if has_begun else f"no answer within {_START_S:g} s"
            raise _Failure("time-out", detail, has_begun) from None
        except (EOFError, OSError):
            raise _Failure("crash", self._how_it_ended(), has_begun) from None
        if kind == _MEMORY:
            raise _Failure("memory", f"{self.memory_bytes / 2**30:.3g} GiB", stage=value)
        return kind, value

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        with theirs:
            args = f"{theirs.fileno()}, {os.getpid()}, {self.memory_bytes}"
            code = f"from mmray.media.sandbox import serve; serve({args})"
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
        # A child may also be stopped in the middle of its answer; reading fails then after a while.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(self.timeout_s))
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


class _Failure(Exception):
    """A call that got no answer.

    Args:
        kind: `crash`, `time-out` or `memory`.
        detail: how the child ended, or the limit that it ran into.
        has_begun: whether it was the child's work that failed, and not its start.
        stage: where in the work, when that is known.
    """

    def __init__(
        self, kind: str, detail: str, has_begun: bool = True, stage: str | None = None
    ) -> None:
        super().__init__(kind, detail)
        self.kind, self.detail, self.has_begun, self.stage = kind, detail, has_begun, stage

    def error(self, stage: str, times: int) -> Exception:
        """What to raise after so many failures of this kind."""
        if not self.has_begun:  # no fault of the media
            return RuntimeError(
                f"the child process that decodes cannot start ({self.detail}); its errors are above"
            )
        if self.kind == "crash":
            once = f"decoder crashed ({self.detail})"
            reason = f"crashed its decoder {times} times ({self.detail})" if times > 1 else once
        elif self.kind == "memory":
            reason = f"decoding takes too much memory (a decoder may have {self.detail})"
        else:
            reason = f"decoder took longer than {self.detail}" + (" twice" if times > 1 else "")
        return MediaError(self.stage or stage, reason)


def _receive(pipe: Connection, limit_s: float) -> tuple[int, Any]:
    if not pipe.poll(limit_s):
        raise TimeoutError
    kind, value = pickle.loads(pipe.recv_bytes())  # noqa: S301 (our own child)
    return kind, value


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6) or 1)


def serve(descriptor: int, parent: int, memory_bytes: int) -> None:
    """The child's loop: answer calls that come through a socket until it closes.

    Args:
        descriptor: file descriptor of this side of the socket.
        parent: process whose end also ends this one, even in the middle of a call.
        memory_bytes: most memory that this process may have.
    """
    _limit(resource.RLIMIT_DATA, memory_bytes)
    _limit(resource.RLIMIT_FSIZE, _FILE_BYTES)
    _limit(resource.RLIMIT_CORE, 0)  # of files that crash their decoder there may be many
    # Ctrl-C reaches the whole group of processes; what becomes of the child the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with Connection(descriptor) as pipe, contextlib.suppress(EOFError, ConnectionError):
        while True:
            _answer(pipe)


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def _answer(pipe: Connection) -> None:
    data = pipe.recv_bytes()
    try:
        function, args = pickle.loads(data)  # noqa: S301 (from our own parent)
        pipe.send_bytes(pickle.dumps((_READY, None)))
        answer = pickle.dumps((_RESULT, function(*args)), pickle.HIGHEST_PROTOCOL)
    except MemoryError:
        answer = pickle.dumps((_MEMORY, None))
    except MediaError as e:
        e.cause = type(e.__cause__).__name__ if e.__cause__ else ""  # not pickled itself
        ran_out = isinstance(e.__cause__, MemoryError)
        answer = pickle.dumps((_MEMORY, e.stage) if ran_out else (_ERROR, e))
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
