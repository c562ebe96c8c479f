from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import fsspec
import fsspec.implementations.memory
import pyarrow as pa
import pytest
import tenacity

from mmray import storage
from mmray.errors import UserError
from mmray.pipeline.dataset import num_rows, read_table, write_table


def test_json_roundtrip_local_and_remote(tmp_path: Path) -> None:
    for uri in (str(tmp_path / "a" / "b.json"), "memory://mmray-test/a/b.json"):
        storage.write_json(uri, {"é": [1, 2]})
        assert storage.read_json(uri) == {"é": [1, 2]}
        assert storage.list_files(uri.rsplit("/", 1)[0]) == ["b.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    storage.write_bytes(path, b"old")

    def write_half() -> None:
        with storage.atomic_path(path) as temporary:
            temporary.write_bytes(b"ne")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


def test_what_killed_writers_left_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".model.safetensors.0123abcd.tmp").write_bytes(b"half")
    (tmp_path / "config.json").write_bytes(b"{}")
    assert storage.list_files(tmp_path) == ["config.json"]
    storage.remove_temporaries(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("content", [None, b"{not json", b"\xff\xfe"])
def test_bad_json_names_the_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json"):
        storage.read_json(path)


def test_localized_copies_a_remote_file() -> None:
    storage.write_bytes("memory://mmray-test/clip.mp4", b"video")
    with storage.localized("memory://mmray-test/clip.mp4") as path:
        assert path.suffix == ".mp4"
        assert path.read_bytes() == b"video"
    assert not path.exists()


def test_missing_folder_is_empty_and_unknown_scheme_is_a_user_error(tmp_path: Path) -> None:
    assert storage.list_files(tmp_path / "nothing") == []
    with pytest.raises(UserError, match="nosuch://"):
        storage.exists("nosuch://bucket/file")


def test_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs/x") == f"{tmp_path}/runs/x"
    assert storage.absolute("s3://bucket/x") == "s3://bucket/x"


def test_file_uris_hide_any_bytes(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(name, "wb") as f:
        f.write(b"odd")
    uri = f"file://{quote_from_bytes(name)}"
    assert storage.exists(uri)
    with storage.localized(uri) as path:
        assert path.read_bytes() == b"odd"


class Flaky(fsspec.implementations.memory.MemoryFileSystem):
    """A storage in memory that fails `left` times before it does what it is asked."""

    protocol = "flaky"
    left = 0
    error: Exception = ConnectionError("reset by peer")

    def _fail(self) -> None:
        if Flaky.left:
            Flaky.left -= 1
            raise Flaky.error

    def _open(self, *args: Any, **kwargs: Any) -> Any:
        self._fail()
        return super()._open(*args, **kwargs)

    def exists(self, *args: Any, **kwargs: Any) -> bool:
        self._fail()
        return super().exists(*args, **kwargs)

    def cat_file(self, *args: Any, **kwargs: Any) -> bytes:
        self._fail()
        return super().cat_file(*args, **kwargs)

    def ls(self, *args: Any, **kwargs: Any) -> Any:
        self._fail()
        return super().ls(*args, **kwargs)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> type[Flaky]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(tenacity.nap.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(Flaky, "error", ConnectionError("reset by peer"))
    return Flaky


@pytest.mark.parametrize(
    "call",
    [
        lambda: storage.read_json("flaky://bucket/a.json"),
        lambda: storage.exists("flaky://bucket/a.json"),
        lambda: storage.list_files("flaky://bucket"),
        lambda: storage.write_json("flaky://bucket/b.json", {}),
        lambda: storage.open_file("flaky://bucket/a.json").read(),
        lambda: read_table("flaky://bucket/a.parquet"),
        lambda: num_rows("flaky://bucket/a.parquet"),
        lambda: storage.remove("flaky://bucket/c.json"),
    ],
    ids=["read", "exists", "list", "write", "open", "table", "rows", "remove"],
)
def test_a_storage_that_fails_for_a_while_is_asked_again(
    flaky: type[Flaky], call: Callable[[], Any]
) -> None:
    flaky.left = 0
    storage.write_json("flaky://bucket/a.json", {"a": 1})
    write_table("flaky://bucket/a.parquet", pa.table({"a": [1]}))
    flaky.left = 4
    call()
    assert flaky.left == 0


def test_a_storage_that_stays_away_is_told(
    flaky: type[Flaky], monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky.left = 1 << 30
    monkeypatch.setattr(storage, "PATIENCE_S", 0.0)
    with pytest.raises(storage.StorageFailed, match=r"flaky://bucket/a.json: .* has not answered"):
        storage.read_json("flaky://bucket/a.json")
    flaky.left = 0


def test_what_is_not_there_is_told_at_once(flaky: type[Flaky]) -> None:
    flaky.left = 0
    with pytest.raises(UserError, match="cannot be opened"):
        storage.read_json("flaky://bucket/nothing.json")
    flaky.left, flaky.error = 2, OSError("AWS Error ACCESS_DENIED during PutObject")
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        storage.exists("flaky://bucket/a.json")
    assert flaky.left == 1
    flaky.left = 0


@pytest.mark.parametrize(
    "uri", ["reference://a.jpg::file:///r.json", "simplecache::http://h/a", "reference://a"]
)
def test_addresses_that_tell_how_to_read_others_are_refused(uri: str) -> None:
    with pytest.raises(UserError, match=r"expected one address|cannot open this kind"):
        storage.open_file(uri)


@pytest.mark.parametrize("uri", ["s3://", "s3:///key", "gs://", "gs:///key"])
def test_an_address_without_a_bucket_is_told_at_once(uri: str) -> None:
    with pytest.raises(UserError, match="names no bucket"):
        storage.exists(uri)


def test_a_damaged_file_is_no_storage_that_is_down(flaky: type[Flaky]) -> None:
    flaky.left = 0
    storage.write_bytes("flaky://bucket/b.parquet", b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(UserError, match=r"b\.parquet: is not a readable Parquet file"):
        read_table("flaky://bucket/b.parquet")
    write_table("flaky://bucket/c.parquet", pa.table({"a": ["x" * 9] * 5000}))
    whole = bytearray(storage.open_file("flaky://bucket/c.parquet").read())
    whole[20:60] = bytes(40)
    storage.write_bytes("flaky://bucket/c.parquet", bytes(whole))
    with pytest.raises(UserError, match=r"c\.parquet: .*") as error:
        read_table("flaky://bucket/c.parquet")
    assert not isinstance(error.value, storage.StorageFailed)


def test_places_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/a/b.json: its folder cannot be made \(Not a dir"):
        storage.write_bytes(tmp_path / "file" / "a" / "b.json", b"")
    with pytest.raises(UserError, match="is a folder, expected a file"):
        storage.write_bytes(tmp_path, b"")


def test_two_jobs_that_write_to_one_folder_are_told(tmp_path: Path) -> None:
    def write() -> None:
        with storage.atomic_path(tmp_path / "part") as path:
            path.touch()
            storage.remove_temporaries(tmp_path)  # as another job does at its end

    with pytest.raises(UserError, match="is another job writing there"):
        write()
