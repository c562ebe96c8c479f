"""The tokeniser: what it should say by heart, and the Java program where it is installed."""

import importlib.util
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from mmray.captioner.tokenise import DROPPED, tokenise

# As the Java program says it.
EXPECTED = {
    "": "",
    "  \n\t ": "",
    ". , ! ? : ; - -- ... ' \" ` ''": "",
    "A man riding a wave, on top of a surfboard.": "a man riding a wave on top of a surfboard",
    "Don't can't won't it's I'm we've dogs' man's": "do n't ca n't wo n't it 's i 'm we 've dogs "
    "man 's",
    "cannot gonna wanna-be": "can not gon na wanna-be",
    "the man’s café isn’t “naïve”…": "the man 's café is n't naïve",
    "a t-shirt, black-and-white and/or x-ray's": "a t-shirt black-and-white and/or x-ray 's",
    "two- and three-wheeled a--b": "two and three-wheeled a b",
    "rock'n'roll o'clock O'Brien y'all": "rock 'n' roll o'clock o'brien y' all",
    "corner of main st. and 5th ave. in the U.S. at 3 p.m.": "corner of main st. and 5th ave. in "
    "the u.s. at 3 p.m.",
    "Mr. Smith, Jr. is in.": "mr. smith jr. is in",
    "vitamin c. The plan b. is": "vitamin c the plan b. is",
    "bus no. 5 says no.": "bus no. 5 says no",
    "1,000 people, 3.5 pm, 10:30, 1/2 and 2 1/2 of $5.50 50%": "1,000 people 3.5 pm 10:30 1/2 and "
    "2\xa01/2 of $ 5.50 50 %",
    "(a sign) [b] {c}": "-lrb- a sign -rrb- -lsb- b -rsb- -lcb- c -rcb-",
    "wow!! what?! no! stop.It": "wow !! what ?! no stop.it",
    "AT&T R&amp;B b & w C++ #tag @you": "at&t r&b b & w c++ #tag @you",
    "😀 a😀b ½ 5°C £5 €5": "a b 1/2 5 ° c # 5 $ 5",
    "日本語 한국어, русский.": "日本語 한국어 русский",
    "see https://example.com/a?b=c, www.foo.org. :)": "see https://example.com/a?b=c www.foo.org "
    ":-rrb-",
}
TEXT = """a man dog T-shirt well-known o'clock don't it's dogs' isn't 3 10 1/2 2.5 1,000 5th st.
mr. u.s. U.S. A The no. café naïve man’s it’s black/white cannot gonna "hi" 'hello' (sign) [x]
... … - -- – & % $5 #1 @ * ! !! ? ; : , . :) I'm rock'n'roll x-ray's 5'6" 6:30 p.m. a.m. TV.
STOP 日本 ½ ° ♥ 😀 tv/radio anti- 'em ’90s C++"""
PIECES = TEXT.split()


@pytest.mark.parametrize(("text", "expected"), EXPECTED.items())
def test_by_heart(text, expected):
    assert tokenise(text) == expected


def test_tokens_are_parted_by_one_space_and_never_plain_punctuation():
    rng = random.Random(1)
    signs = [*map(chr, range(1, 0x3000)), *PIECES, *" " * 2000]
    for _ in range(2000):
        found = tokenise("".join(rng.choices(signs, k=rng.randint(1, 40))))
        assert not found or not set(found.split(" ")) & DROPPED
        assert "\n" not in found


def test_long_texts_take_no_long():
    for text in ("a." * 5000, "-" * 20000, "1 " * 9000, "<a " * 5000, "a@" * 3000, "'" * 9000):
        tokenise(text)


def _java(texts: list[str], tmp_path: Path) -> list[str]:
    spec = importlib.util.find_spec("pycocoevalcap")
    if not spec or not shutil.which("java"):
        pytest.skip("needs pycocoevalcap==1.2, which `make install` brings, and Java")
    folder = Path(next(iter(spec.submodule_search_locations or ()))) / "tokenizer"
    # With captions that begin as most do in between: the end of one depends on the next.
    (tmp_path / "texts").write_text("\nA\n".join([*texts, ""]), encoding="utf-8")
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(folder / "stanford-corenlp-3.4.1.jar"),
               "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase",
               str(tmp_path / "texts")]  # fmt: skip
    lines = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\n")
    tokens = [line.rstrip().split(" ") for line in lines[: 2 * len(texts) : 2]]
    return [" ".join(token for token in line if token not in DROPPED) for line in tokens]


def test_equal_to_the_java_program(tmp_path):
    by_heart = [text for text in EXPECTED if "\n" not in text]
    assert _java(by_heart, tmp_path) == [EXPECTED[text] for text in by_heart]
    rng = random.Random(0)
    texts = [" ".join(rng.choices(PIECES, k=rng.randint(1, 12))) for _ in range(3000)]
    assert [tokenise(text) for text in texts] == _java(texts, tmp_path)
