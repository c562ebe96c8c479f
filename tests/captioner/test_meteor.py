"""METEOR through its program, and why it is absent where it is."""

import pytest

from mmray.captioner import meteor as module
from mmray.captioner.meteor import meteor, meteor_tokenised, meteors, why_not
from mmray.errors import UserError

CANDIDATES = ["this is a good test", "A dog\nruns | ||| fast", "", "naïve 日本語"]
REFERENCES = [["this is a test", "this is also a test"], ["the dog ran ||| quickly\r\n", ""],
              ["a cat"], ["naïve"]]  # fmt: skip


def test_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    assert "Java" in why_not()
    with pytest.raises(UserError, match="needs Java"):
        meteor(["a"], [["a"]])
    monkeypatch.setattr(module.shutil, "which", lambda _: "/usr/bin/java")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install"):
        meteor(["a"], [["a"]])


def test_a_program_that_fails_is_named(monkeypatch, tmp_path):
    program = tmp_path / "java"
    program.write_text("#!/bin/sh\necho no memory left >&2\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(module, "_folder", lambda: tmp_path)
    with pytest.raises(UserError, match="no memory left"):
        meteor(["a"], [["a"]])


@pytest.mark.slow
def test_published_values_and_line_breaks():
    if why_not():
        pytest.skip(why_not())
    # Maluuba's nlg-eval expects this of its example.
    assert meteor(CANDIDATES[:1], REFERENCES[:1]) == pytest.approx(0.44434387, abs=1e-6)
    score = meteor(CANDIDATES, REFERENCES)
    assert 0.2 < score < 0.9
    assert meteors([CANDIDATES, CANDIDATES[::-1], CANDIDATES], REFERENCES)[::2] == [score, score]
    assert meteor_tokenised([""], [["a cat"]]) == 0


@pytest.mark.slow
def test_equal_to_the_reference_implementation():
    if why_not():
        pytest.skip(why_not())
    theirs = pytest.importorskip("pycocoevalcap.meteor.meteor").Meteor()
    candidates = ["a man rides a wave", "", "two dogs are playing", "naive , cafe", "the"]
    references = [["a surfer riding a big wave", "man surfing"], ["a cat"],
                  ["dogs play in the grass", ""], ["a cafe"], [""]]  # fmt: skip
    expected, _ = theirs.compute_score(
        dict(enumerate(references)), {i: [text] for i, text in enumerate(candidates)}
    )
    assert meteor_tokenised(candidates, references) == pytest.approx(expected, abs=1e-6)
