import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmray.errors import UserError
from mmray.sources import VideoItem, videos

ROWS = {
    "uri": ["a.mp4", "sub/b.mp4", "/abs/c.mp4", "s3://bucket/d.mp4"],
    "start_s": [None, 10.0, 0.0, None],
    "duration_s": [None, 10.0, 2.5, None],
    "labels": [["dog", "beach"], [], None, ["cat"]],
    "key": [None, None, "c", None],
    "other": [1, 2, 3, 4],
}


def parquet(path, rows):
    pq.write_table(pa.table(rows), path)
    return f"manifest:{path}"


def csv(path, text):
    path.write_text(text)
    return f"manifest:{path}"


def expected(root):
    return [
        VideoItem(f"{root}/a.mp4", "a.mp4", ["dog", "beach"]),
        VideoItem(f"{root}/sub/b.mp4", "sub/b.mp4", start_s=10.0, duration_s=10.0),
        VideoItem("/abs/c.mp4", "c", start_s=0.0, duration_s=2.5),
        VideoItem("s3://bucket/d.mp4", "s3://bucket/d.mp4", ["cat"]),
    ]


def test_parquet(tmp_path):
    assert list(videos(parquet(tmp_path / "m.parquet", ROWS))) == expected(tmp_path)


def test_csv(tmp_path):
    text = (
        "uri,labels,start_s,duration_s,key,other\n"
        "a.mp4,dog; beach,,,,1\n"
        "sub/b.mp4,,10,10,,2\n"
        "/abs/c.mp4,,0,2.5,c,3\n"
        "s3://bucket/d.mp4,cat,,,,4\n"
    )
    assert list(videos(csv(tmp_path / "m.csv", text))) == expected(tmp_path)


def test_only_the_uri_is_needed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    csv(tmp_path / "m.csv", "uri\n007.mp4\n")
    (item,) = videos("manifest:m.csv")
    assert item == VideoItem(f"{tmp_path}/007.mp4", "007.mp4")


def test_keys_of_absolute_paths_below_the_table_are_relative(tmp_path):
    (item,) = videos(csv(tmp_path / "m.csv", f"uri\n{tmp_path}/a/b.mp4\n"))
    assert item.key == "a/b.mp4"


def test_labels_that_look_like_numbers_stay_text(tmp_path):
    (item,) = videos(csv(tmp_path / "m.csv", "uri,labels\na.mp4,007\n"))
    assert item.labels == ["007"]


def test_remote_tables():
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/set/m.csv", b"uri\na.mp4\n")
    try:
        (item,) = videos("manifest:memory://set/m.csv")
        assert item == VideoItem("memory://set/a.mp4", "a.mp4")
    finally:
        memory.rm("/set", recursive=True)


def test_many_rows_are_streamed(tmp_path):
    source = parquet(tmp_path / "m.parquet", {"uri": [f"{i}.mp4" for i in range(5000)]})
    assert [i.key for i in videos(source)] == [f"{i}.mp4" for i in range(5000)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "cannot be opened"),
        ("none.parquet", None, "cannot be opened"),
        ("m.txt", "uri\na.mp4\n", r"expected a file named \*.parquet or \*.csv"),
        ("empty.csv", "", "has no rows"),
        ("header.csv", "uri\n", "has no rows"),
        ("m.csv", "path,label\na.mp4,x\n", "no column `uri`; its columns are: path, label"),
        ("m.csv", "uri,start_s\na.mp4,soon\n", "cannot be read as a table"),
        ("m.csv", "uri,start_s\na.mp4\n", "cannot be read as a table"),
        ("m.parquet", "this is no parquet", "cannot be read as a table"),
    ],
)
def test_a_table_that_cannot_be_used_is_an_error_at_once(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        videos(f"manifest:{path}")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"uri": ["a.mp4", None]}, "row 2: `uri` is None"),
        ({"uri": ["a.mp4", " "]}, "row 2: `uri` is ' '"),
        ({"uri": ["a.mp4"], "start_s": [-1.0]}, "row 1: `start_s` is -1.0; expected seconds, 0"),
        ({"uri": ["a.mp4"], "start_s": [float("nan")]}, "row 1: `start_s` is nan"),
        ({"uri": ["a.mp4"], "start_s": ["soon"]}, "row 1: `start_s` is 'soon'"),
        ({"uri": ["a.mp4"], "duration_s": [0.0]}, "row 1: `duration_s` is 0.0"),
        ({"uri": ["a.mp4"], "duration_s": [float("inf")]}, "row 1: `duration_s` is inf"),
        ({"uri": ["a.mp4"], "labels": [[1, 2]]}, r"row 1: `labels` is \[1, 2\]"),
        ({"uri": [7]}, "row 1: `uri` is 7"),
    ],
)
def test_a_bad_value_names_its_row(tmp_path, rows, message):
    items = videos(parquet(tmp_path / "m.parquet", rows))
    with pytest.raises(UserError, match=message):
        list(items)


def test_an_empty_parquet_table(tmp_path):
    source = parquet(tmp_path / "m.parquet", {"uri": pa.array([], pa.string())})
    with pytest.raises(UserError, match="has no rows"):
        videos(source)
