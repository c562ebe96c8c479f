from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest

from mmray import storage
from mmray.errors import UserError


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
