"""Local paths and URIs behind the same few functions.

Paths may be local or any URI that pyarrow or fsspec opens (`s3://`, `gs://`, `hdfs://`,
`memory://`, ...). Writes are atomic: a reader sees the whole file or none of it. A storage that
does not answer is asked again, less and less often, for some minutes.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import unquote_to_bytes

import fsspec
import tenacity
from fsspec.core import url_to_fs

from mmray.errors import UserError

logger = logging.getLogger(__name__)

# pyarrow brings these without further packages; everything else is left to fsspec.
ARROW_SCHEMES = ("s3", "gs", "gcs", "hdfs", "abfs")
# Of these the file system depends on nothing but the bucket.
BUCKET_SCHEMES = ("s3", "gs", "gcs")
PATIENCE_S = 300.0
"""How long a storage is asked again. Web servers, of which a list may name many that are gone for
good, get less."""
WEB_PATIENCE_S = 10.0
# What another try does not mend, as the messages of S3 name it.
_REFUSALS = (
    *("ACCESS_DENIED", "PERMISSION_DENIED", "UNAUTHENTICATED", "UNRECOGNIZED_CLIENT"),
    *("INVALID_ACCESS_KEY", "INVALID_CLIENT_TOKEN", "MISSING_AUTHENTICATION", "SIGNATURE"),
    *("EXPIRED", "NO_SUCH_BUCKET", "INVALID_OBJECT_STATE", "not found", "HTTP status 4"),
)
_PASSING_HTTP = (408, 425, 429)
_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOTCONN)
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
P = ParamSpec("P")
R = TypeVar("R")
Uri = TypeVar("Uri", bound=str | Path)


class StorageFailed(UserError):
    """A storage that did not answer for as long as mmray waits: no fault of the file."""


class Unreadable(UserError):
    """A file that cannot be read while its storage answers: it is damaged, or that was chance."""


UNREADABLE_TIMES = 3
"""After so many times it was no chance."""


def patient(function: Callable[Concatenate[Uri, P], R]) -> Callable[Concatenate[Uri, P], R]:
    """Call a function of an address again, and again, while the storage there is down.

    The function must be one that may be called twice.

    Raises:
        StorageFailed: it was down for `PATIENCE_S` (`WEB_PATIENCE_S` for `http` and `https`).
    """

    @functools.wraps(function)
    def call(uri: Uri, *args: P.args, **kwargs: P.kwargs) -> R:
        limit = WEB_PATIENCE_S if str(uri).startswith("http") else PATIENCE_S

        def give_up(state: tenacity.RetryCallState) -> Any:
            error = _error_of(state)
            if isinstance(error, Unreadable):
                raise UserError(str(error)) from error
            raise StorageFailed(
                f"{uri}: the storage has not answered for {limit:g} s ({error}). Are its name, its "
                "region and the network right? When it answers, the same command goes on"
            ) from error

        def tell(state: tenacity.RetryCallState) -> None:
            if state.attempt_number == 3:
                error = _error_of(state)
                logger.warning(
                    "%s: the storage does not answer, trying again for %g s (%s)", uri, limit, error
                )

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: _is_passing(uri, error)),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=20),
            stop=lambda state: tenacity.stop_after_delay(limit)(state) or _is_damaged(state),
            before_sleep=tell,
            retry_error_callback=give_up,
        )
        return retrying(function, uri, *args, **kwargs)

    return call


def _error_of(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _is_damaged(state: tenacity.RetryCallState) -> bool:
    often = state.attempt_number >= UNREADABLE_TIMES
    return often and isinstance(_error_of(state), Unreadable)


def _is_passing(uri: str | Path, error: BaseException | None) -> bool:
    """Whether an error speaks of a storage that is down, rather than of what is stored there."""
    if isinstance(error, (StorageFailed, *_LASTING)) or error is None:
        return False
    if isinstance(error, Unreadable):
        return True
    if isinstance(error, UserError):
        return _is_passing(uri, error.__cause__)
    if not is_remote(uri):
        return isinstance(error, OSError) and error.errno in _PASSING
    if type(error).__module__.startswith("aiohttp"):  # fsspec's, where it speaks HTTP
        status = getattr(error, "status", 500)
        return status >= 500 or status in _PASSING_HTTP
    text = str(error).replace(local_path(uri).name, "")  # a file may be called anything
    return isinstance(error, OSError) and not any(word in text for word in _REFUSALS)


def is_remote(uri: str | Path) -> bool:
    """Whether `uri` names something outside the local file system."""
    return "://" in str(uri) and not str(uri).startswith("file://")


def filesystem(uri: str | Path) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of `uri` and the path on it."""
    if not is_remote(uri):
        return fsspec.filesystem("file"), str(local_path(uri).absolute())
    text = str(uri)
    scheme = text.split("://", 1)[0]
    try:
        if scheme in ARROW_SCHEMES:
            return _arrow_filesystem(scheme, text)
        if "::" in text:  # fsspec's chains, in which one file tells where and how to read another
            raise UserError(f"{text}: expected one address, without ::")
        return url_to_fs(text)
    except UserError:
        raise
    except (ValueError, TypeError, ImportError, OSError) as e:
        if isinstance(e, OSError):
            raise UserError(f"{text}: cannot be opened ({e})") from e
        raise UserError(f"{text}: cannot open this kind of address ({e})") from e


def _arrow_filesystem(scheme: str, uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import FileSystem

    path = uri.split("://", 1)[1]
    bucket = path.split("/", 1)[0]
    if scheme in BUCKET_SCHEMES and not bucket:
        raise ValueError("it names no bucket")
    if scheme in BUCKET_SCHEMES and not {"?", "@"} & set(path):
        return _bucket(f"{scheme}://{bucket}"), path.rstrip("/")
    arrow, path = FileSystem.from_uri(uri)
    return ArrowFSWrapper(arrow), path


@functools.cache
def _bucket(uri: str) -> fsspec.AbstractFileSystem:
    """The file system of a bucket; kept, since making one asks where the bucket is."""
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import FileSystem

    return ArrowFSWrapper(FileSystem.from_uri(uri)[0])


def local_path(uri: str | Path) -> Path:
    """The local `Path` of a path or a `file://` URI (whose percent signs may hide any bytes)."""
    text = str(uri)
    if text.startswith("file://"):
        text = os.fsdecode(unquote_to_bytes(text.removeprefix("file://")))
    return Path(text)


def join(uri: str | Path, *parts: str) -> str:
    """Append path components to a path or URI."""
    return "/".join([str(uri).rstrip("/"), *parts])


def absolute(uri: str | Path) -> str:
    """`uri` such that every worker, whatever its working directory, finds the same place."""
    return str(uri) if is_remote(uri) else str(local_path(uri).expanduser().absolute())


@patient
def exists(uri: str | Path) -> bool:
    """Whether a file or folder is there."""
    fs, path = filesystem(uri)
    return bool(fs.exists(path))


def is_answered(uri: str | Path) -> bool:
    """Whether the storage gives the end of a file: what is wrong with it is then its own fault."""
    fs, path = filesystem(uri)
    try:
        fs.cat_file(path, start=-8)
    except Exception:  # each kind of storage has errors of its own, and any of them is no answer
        return False
    return True


def open_file(uri: str | Path) -> IO[bytes]:
    """Open a file for reading; a missing or unreadable one is a `UserError` that names it.

    A remote one is copied first: a connection that breaks half-way cannot be taken up again.
    """
    if not is_remote(uri):
        try:
            return local_path(uri).open("rb")
        except OSError as e:
            raise UserError(f"{uri}: cannot be opened ({e.strerror})") from e
    copy = tempfile.TemporaryFile(prefix="mmray-")  # noqa: SIM115 (the caller's)
    try:
        _download(str(uri), copy)
    except BaseException:
        copy.close()
        raise
    copy.seek(0)
    return copy


@patient
def _download(uri: str, sink: IO[bytes]) -> None:
    sink.seek(0)
    sink.truncate()
    fs, path = filesystem(uri)
    try:
        with fs.open(path, "rb") as source:
            shutil.copyfileobj(source, sink, 1 << 20)
    except Exception as e:
        if isinstance(e, OSError) or type(e).__module__.startswith("aiohttp"):
            raise UserError(f"{uri}: cannot be opened ({e})") from e
        raise


@patient
def _upload(uri: str, file: Path) -> None:
    fs, path = filesystem(uri)
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    fs.put_file(str(file), path)


@patient
def list_files(uri: str | Path) -> list[str]:
    """Names of the files directly in a folder, sorted; empty when the folder is missing.

    What killed writers of `atomic_path` left there does not count.
    """
    fs, path = filesystem(uri)
    if not fs.exists(path):
        return []
    entries = fs.ls(path, detail=True)
    names = (e["name"].rstrip("/").rsplit("/", 1)[-1] for e in entries if e["type"] == "file")
    return sorted(n for n in names if not (n.startswith(".") and n.endswith(".tmp")))


@patient
def list_folders(uri: str | Path) -> list[str]:
    """Names of the folders directly in a folder, sorted; empty when the folder is missing."""
    fs, path = filesystem(uri)
    if not fs.exists(path):
        return []
    entries = fs.ls(path, detail=True)
    names = (e["name"].rstrip("/").rsplit("/", 1)[-1] for e in entries if e["type"] == "directory")
    return sorted(names)


def walk(uri: str | Path) -> Iterator[str]:
    """Paths, from a folder on, of the files in it and in all folders below."""
    yield from list_files(uri)
    for folder in list_folders(uri):
        for path in walk(join(uri, folder)):
            yield f"{folder}/{path}"


@contextlib.contextmanager
def localized(uri: str | Path) -> Iterator[Path]:
    """Give a local path with the file's content; remote files are copied for the duration."""
    if not is_remote(uri):
        yield local_path(uri)
        return
    suffix = Path(str(uri)).suffix
    with tempfile.TemporaryDirectory(prefix="mmray-") as folder:
        target = Path(folder) / f"file{suffix}"
        with target.open("wb") as sink:
            _download(str(uri), sink)
        yield target


@contextlib.contextmanager
def atomic_path(uri: str | Path) -> Iterator[Path]:
    """Give a local path to write to; it becomes `uri` when the block ends without an error."""
    if is_remote(uri):
        with tempfile.TemporaryDirectory(prefix="mmray-") as folder:
            temporary = Path(folder) / "file"
            yield temporary
            _upload(str(uri), temporary)
        return
    target = local_path(uri)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"{target}: its folder cannot be made ({e.strerror})") from e
    # Beside the target, since a rename is atomic only within one file system.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        try:
            with temporary.open("rb") as f:
                os.fsync(f.fileno())
            temporary.replace(target)
        except FileNotFoundError as e:
            raise UserError(
                f"{target}: was taken away while it was written; is another job writing there?"
            ) from e
        except IsADirectoryError as e:
            raise UserError(f"{target}: is a folder, expected a file") from e
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: str | Path) -> None:
    """Remove what killed writers of `atomic_path` left in a folder."""
    if not is_remote(folder):
        for path in local_path(folder).glob(".*.tmp"):
            path.unlink(missing_ok=True)


def write_bytes(uri: str | Path, data: bytes) -> None:
    """Write a file atomically, making its folder."""
    with atomic_path(uri) as path:
        path.write_bytes(data)


def write_json(uri: str | Path, value: Any) -> None:
    """Write `value` as JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_bytes(uri, text.encode())


def read_json(uri: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or is not JSON; the message names it.
    """
    with open_file(uri) as f:
        data = f.read()
    try:
        return json.loads(data)
    except ValueError as e:
        raise UserError(f"{uri}: is not a JSON file ({e})") from e


@patient
def remove(uri: str | Path) -> None:
    """Remove a file or a folder with all it holds; nothing happens when it is missing."""
    fs, path = filesystem(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def cache_dir() -> Path:
    """The folder for things that can be made again: `$MMRAY_CACHE`, else `~/.cache/mmray`."""
    return Path(os.environ.get("MMRAY_CACHE") or Path.home() / ".cache" / "mmray")


def sha256(path: str | Path) -> str:
    """SHA-256 of a local file, as hexadecimal digits."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
