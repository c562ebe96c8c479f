"""Plain text of any length as passages: a few sentences that follow one another."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from mmray import storage
from mmray.errors import UserError

LEAST = 500
"""Sentences that a style needs."""
IN_PASSAGE = 4
"""Sentences of a passage, at most."""
LONGEST = 60
"""Words of a sentence; what is longer is a table or a list, and is left out."""

# What these scripts write has no spaces between words.
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
_BLOCK = 1 << 20
_BROKEN = 0.001
"""Share of signs that may be broken in a text that is UTF-8 else."""
# Signs that belong to the letter before them: vowels of Indic scripts, accents.
_MARKS = "".join(c for c in map(chr, range(1 << 16)) if unicodedata.category(c)[0] == "M")
_LETTER = f"(?:[^\\W_]|[{_MARKS}])"
_WORD = re.compile(f"{_LETTER}+(?:['’]{_LETTER}+)*")
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# A blank line, or a line that only separates (fortunes have %, others ---, *** or ===).
_BREAK = re.compile(r"[\s%*=_~-]*")
# An end of a sentence, perhaps within quotation marks, before what may begin one.
_END = re.compile(
    r"(?<=[.!?।؟۔])(?<!\b[A-Z]\.)(?<!\bMr\.)(?<!\bDr\.)(?<!\bSt\.)([\"'”’)\]]*)\s+(?=\S)"
)


def passages(uri: str) -> Iterator[list[str]]:
    """The passages of a text file, streamed.

    Paragraphs end at blank lines and at lines without letters; a passage does not go across.
    Sentences without letters, of one word, of more than `LONGEST` words, or that tell who is quoted
    ("-- Mark Twain") are left out, and end a passage.

    Args:
        uri: the file; UTF-8 (perhaps with a few broken signs), UTF-16 with a byte order mark, or
            Latin-1.

    Yields:
        1 to `IN_PASSAGE` sentences each.

    Raises:
        UserError: it cannot be read, is no text, or is in a script without spaces.
    """
    for i, paragraph in enumerate(_paragraphs(uri)):
        if i < 3 and (script := script_of([paragraph])) in _UNSPACED:
            raise UserError(
                f"{uri}: is written in {script.title()} letters, without spaces between words; "
                "such texts cannot be cut into sentences here"
            )
        passage: list[str] = []
        for sentence in sentences(paragraph):
            usable = 2 <= len(sentence.split()) <= LONGEST and mostly_letters(sentence)
            usable = usable and not sentence.startswith("--")
            if usable:
                passage.append(sentence)
            if passage and (not usable or len(passage) == IN_PASSAGE):
                yield passage
                passage = []
        if passage:
            yield passage


def sentences(paragraph: str) -> list[str]:
    """A paragraph cut after full stops, question marks and exclamation marks."""
    marked = _END.sub(lambda match: f"{match[1]}\n", " ".join(paragraph.split()))
    return [s for s in marked.split("\n") if s]


def words_of(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return _WORD.findall(text.lower())


def mostly_letters(text: str) -> bool:
    """Whether three in five signs are letters, spaces aside."""
    signs = [c for c in text if not c.isspace()]
    letters = sum(c.isalpha() or unicodedata.category(c)[0] == "M" for c in signs)
    return bool(signs) and letters >= 0.6 * len(signs)


def as_sentence(text: str) -> str:
    """With a capital letter and a full stop, as books have: captions often lack both."""
    text = " ".join(text.split())
    return text[:1].upper() + text[1:] + ("" if text[-1:] in ("", *".!?।؟۔") else ".")


def script_of(texts: Iterable[str]) -> str:
    """The script of most letters, as Unicode calls it: "LATIN", "CYRILLIC", ..."""
    letters: Counter[str] = Counter()
    for text in texts:
        letters.update(c for c in text if c.isalpha())
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        scripts[unicodedata.name(letter, "UNKNOWN").split()[0]] += count
    return scripts.most_common(1)[0][0] if scripts else "NONE"


def _paragraphs(uri: str) -> Iterator[str]:
    """Blocks of lines; a very long one is cut, so that memory is bounded."""
    lines: list[str] = []
    size = 0
    for line in _lines(uri):
        separates = _BREAK.fullmatch(line) is not None
        if not separates:
            lines.append(line)
            size += len(line)
        if lines and (separates or size >= _BLOCK):
            yield "\n".join(lines)
            lines, size = [], 0
    if lines:
        yield "\n".join(lines)


def _lines(uri: str) -> Iterator[str]:
    rest = ""
    for text in _decoded(uri):
        *whole, rest = (rest + text).replace("\r\n", "\n").split("\n")
        yield from whole
        if len(rest) > _BLOCK:  # a file without line ends
            yield rest
            rest = ""
    yield rest


def _decoded(uri: str) -> Iterator[str]:
    """The text of a file, a block at a time."""
    try:
        source = storage.open_file(uri)
    except OSError as e:
        raise UserError(f"{uri}: cannot be read ({e}); expected a text file") from e
    with source:
        block = source.read(_BLOCK)
        if not block:
            raise UserError(f"{uri}: is empty; expected a text of {LEAST} sentences or more")
        decoder = codecs.getincrementaldecoder(_encoding(block, uri))(errors="ignore")
        while block:
            yield decoder.decode(block)
            block = source.read(_BLOCK)


def _encoding(block: bytes, uri: str) -> str:
    if block.startswith(_UTF_16):
        return "utf-16"
    if b"\0" in block:
        raise UserError(f"{uri}: is binary; expected plain text")
    text = codecs.getincrementaldecoder("utf-8-sig")(errors="replace").decode(block)
    if text.count("\N{REPLACEMENT CHARACTER}") <= _BROKEN * len(text):
        return "utf-8-sig"
    letters = [c for c in block.decode("latin-1") if c.isalpha()]
    if sum(c > "\x7f" for c in letters) > len(letters) / 3:
        raise UserError(
            f"{uri}: is neither UTF-8 nor a Latin-1 text of a European language; convert it to "
            "UTF-8, as by `iconv -f ENCODING -t UTF-8`"
        )
    return "latin-1"
