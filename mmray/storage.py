"""Local paths and URIs behind the same few functions.

Paths may be local or any URI that pyarrow or fsspec opens (`s3://`, `gs://`, `hdfs://`,
`memory://`, ...). Writes are atomic: a reader sees the whole file or none of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote_to_bytes

import fsspec
from fsspec.core import url_to_fs

from mmray.errors import UserError

# pyarrow brings these without further packages; everything else is left to fsspec.
ARROW_SCHEMES = ("s3", "gs", "gcs", "hdfs", "abfs")


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
            from fsspec.implementations.arrow import ArrowFSWrapper
            from pyarrow.fs import FileSystem

            arrow, path = FileSystem.from_uri(text)
            return ArrowFSWrapper(arrow), path
        return url_to_fs(text)
    except (ValueError, ImportError, OSError) as e:
        raise UserError(f"{text}: cannot open this kind of address ({e})") from e


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


def exists(uri: str | Path) -> bool:
    """Whether a file or folder is there."""
    fs, path = filesystem(uri)
    return bool(fs.exists(path))


def open_file(uri: str | Path, mode: str = "rb") -> IO[Any]:
    """Open a file; a missing or unreadable one is a `UserError` that names it."""
    if not is_remote(uri):
        try:
            return local_path(uri).open(mode)
        except OSError as e:
            raise UserError(f"{uri}: cannot be opened ({e.strerror})") from e
    fs, path = filesystem(uri)
    try:
        return fs.open(path, mode)
    except OSError as e:
        raise UserError(f"{uri}: cannot be opened ({e})") from e


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
        with open_file(uri) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        yield target


@contextlib.contextmanager
def atomic_path(uri: str | Path) -> Iterator[Path]:
    """Give a local path to write to; it becomes `uri` when the block ends without an error."""
    if is_remote(uri):
        with tempfile.TemporaryDirectory(prefix="mmray-") as folder:
            temporary = Path(folder) / "file"
            yield temporary
            fs, path = filesystem(uri)
            fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            fs.put_file(str(temporary), path)
        return
    target = local_path(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, since a rename is atomic only within one file system.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        temporary.replace(target)
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
    with open_file(uri, "rb") as f:
        data = f.read()
    try:
        return json.loads(data)
    except ValueError as e:
        raise UserError(f"{uri}: is not a JSON file ({e})") from e


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
