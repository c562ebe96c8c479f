"""What damaged media and unlucky hosts do to a decoder; imported by the child of a sandbox."""

from __future__ import annotations

import os
import signal
import struct
from pathlib import Path

_leaked = []


def signalled(tries: str, number: int, times: int) -> str:
    """Get a signal in the first `times` calls, which a file counts; then answer."""
    file = Path(tries)
    count = len(file.read_bytes()) if file.exists() else 0
    file.write_bytes(b"." * (count + 1))
    if count < times:
        os.kill(os.getpid(), number)
    return "decoded"


def stop_while_answering() -> None:
    """Send the beginning of an answer, and then nothing."""
    for descriptor in list(Path("/proc/self/fd").iterdir()):
        if descriptor.is_socket():
            os.write(int(descriptor.name), struct.pack("!i", 1000) + b"x" * 10)
    os.kill(os.getpid(), signal.SIGSTOP)


def leak(num_bytes: int) -> int:
    """Keep so many bytes for ever; the sum."""
    _leaked.append(bytearray(num_bytes))
    return sum(map(len, _leaked))
