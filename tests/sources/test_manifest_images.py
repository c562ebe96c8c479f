import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmray.errors import UserError
from mmray.sources import ImageItem, images


def test_parquet(tmp_path):
    rows = {
        "uri": ["a.jpg", "/abs/b.jpg", "s3://bucket/c.jpg"],
        "key": [None, "b", None],
        "tags": [["sea", "blue sky"], [], None],
        "captions": [["A sea; blue."], None, None],
        "labels": [["beach"], None, ["cat"]],
        "split": ["train", "test", None],
        "start_s": ["no", "time", "here"],
    }
    pq.write_table(pa.table(rows), tmp_path / "m.parquet")
    assert list(images(f"manifest:{tmp_path}/m.parquet")) == [
        ImageItem(
            f"{tmp_path}/a.jpg", "a.jpg", ["sea", "blue sky"], ["A sea; blue."], ["beach"], "train"
        ),
        ImageItem("/abs/b.jpg", "b", split="test"),
        ImageItem("s3://bucket/c.jpg", "s3://bucket/c.jpg", labels=["cat"]),
    ]


def test_csv(tmp_path):
    (tmp_path / "m.csv").write_text(
        "uri,tags,captions,labels,split\na.jpg,sea; blue sky;,A sea.,007,val\nb.jpg,2010,,,\n"
    )
    assert list(images(str(tmp_path / "m.csv"))) == [
        ImageItem(f"{tmp_path}/a.jpg", "a.jpg", ["sea", "blue sky"], ["A sea."], ["007"], "val"),
        ImageItem(f"{tmp_path}/b.jpg", "b.jpg", ["2010"]),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("uri,split\na.jpg,dev\n", "row 1: `split` is 'dev'; expected one of train, val, test"),
        ("uri,tags\n ,sea\n", "row 1: `uri` is ' '; expected the path or URI of a picture"),
        ("path,tags\na.jpg,sea\n", "no column `uri`; its columns are: path, tags"),
        ("uri\n", "has no rows"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        list(images(f"manifest:{tmp_path}/m.csv"))
    assert str(tmp_path / "m.csv") in str(error.value)


def test_tags_must_be_texts(tmp_path):
    pq.write_table(pa.table({"uri": ["a.jpg"], "tags": [[1, 2]]}), tmp_path / "m.parquet")
    with pytest.raises(UserError, match=r"row 1: `tags` is \[1, 2\]; expected text or a list"):
        list(images(f"manifest:{tmp_path}/m.parquet"))
