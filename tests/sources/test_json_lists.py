import json
import tracemalloc

import pytest

from mmray.errors import UserError
from mmray.sources import json_lists
from mmray.sources.json_lists import elements

VALUE = {
    "info": {"year": 2017, "nested": [1, 2]},
    "images": [{"id": 1}, {"id": 2, "text": 'é "quoted" \\ ] }'}],
    "empty": [],
    "number": 123456789,
    "numbers": [123456, -1.5e3, True, None, "x"],
}
EXPECTED = [(k, v) for k, vs in VALUE.items() if isinstance(vs, list) for v in vs]


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_elements_whatever_part_is_in_memory(tmp_path, monkeypatch, chunk, indent, encoding):
    monkeypatch.setattr(json_lists, "_CHUNK", chunk)
    text = json.dumps(VALUE, indent=indent, ensure_ascii=False)
    (tmp_path / "a.json").write_text(text, encoding=encoding)
    assert list(elements(str(tmp_path / "a.json"))) == EXPECTED


def test_a_large_file_is_not_read_at_once(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps({"annotations": [{"id": i, "text": "x" * 100} for i in range(10**5)]})
    )
    tracemalloc.start()
    assert sum(1 for _ in elements(str(path))) == 10**5
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 12_000_000
    assert peak < 8_000_000


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{",
            "[]",
            "[{}]",
            '{"a"',
            '{"a": [1, 2',
            '{"a": [1 2]}',
            '{"a": [1]',
            "\0",
            "nonsense",
        ),
        *('{"a": [{"b": tru}]}', '{"a": 1,}', '{"a": ' + "[" * 100_000),
    ],
)
def test_broken_files_are_named(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match="is not a JSON file with lists") as error:
        list(elements(str(path)))
    assert str(path) in str(error.value)


def test_an_element_without_end_is_not_read_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lists, "_CHUNK", 100)
    monkeypatch.setattr(json_lists, "MAX_CHARS", 1 << 10)
    path = tmp_path / "a.json"
    path.write_text('{"a": ["' + "x" * 100_000)
    with pytest.raises(UserError, match="one value has more than"):
        list(elements(str(path)))


def test_an_empty_object(tmp_path):
    (tmp_path / "a.json").write_text(" {} ")
    assert list(elements(str(tmp_path / "a.json"))) == []
