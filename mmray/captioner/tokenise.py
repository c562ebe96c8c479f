"""Captions cut into words as those who publish caption scores cut them.

The scores of the literature are taken over the tokens of Stanford's PTBTokenizer 3.4.1, of which
the plain punctuation is dropped (Chen et al.: *Microsoft COCO Captions*, 2015). That tokenizer
needs Java. Here its habits are written down as rules, so that `dogs.` is `dogs`, `man's` is
`man 's`, `can't` is `ca n't`, `t-shirt`, `o'clock` and `3.5` stay whole, and `st.` keeps its
point. Where rules compete, the longest match wins, and of equally long ones the first.

Known differences, all far from what captions say: words run together across punctuation, parts
of addresses in markup, `n‘t` with an opening quotation mark, and letters and vowel signs that
are younger than Java 6's Unicode (it drops them, or cuts words at them; we keep them). Whether a
single letter at a caption's end keeps its point depends on the next caption there; here it never
does. A line break is a space here; there, one that is not a line feed shifts all later captions.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";", ""])
"""Tokens that count for nothing. Brackets do count: they are spelled `-lrb-`, `-rrb-` and so on."""

_BRACKET = re.compile(r"[()]")
_BRACKETS = {"(": "-LRB-", ")": "-RRB-"}
_WRITTEN = {
    **{"[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-", '"': "''"},
    **dict.fromkeys("\u2010\u2011\u058a", ""),
}
_ENTITIES = {
    **{"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'"},
    **{"&nbsp;": " ", "&mdash;": " -- ", "&ndash;": " -- "},
}
_ENTITY = re.compile("|".join(_ENTITIES), re.IGNORECASE)
_NON_ASCII = re.compile(r"[^\x00-\x7f]")
# Kept inside words; all other signs stand apart, are rewritten or vanish.
_JOINING = frozenset("\u2019\u2010\u2011\u058a")
_REWRITTEN = {
    **dict.fromkeys("\u201c\u201d\xab\xbb\x93\x94", ' " '),
    **dict.fromkeys("\u2018\u201b\u2039\u203a\x91", " ` "),
    **dict.fromkeys("\u2013\u2014\u2015\x96\x97", " -- "),
    **dict.fromkeys("\xa4\u20a0\u20ac\x80", " $ "),
    **{"\xa3": " # ", "\xa2": " cents ", "\u2026": " ... ", "\x92": "\u2019", "\xad": ""},
    **{"\xbc": " 1/4 ", "\xbd": " 1/2 ", "\xbe": " 3/4 ", "\u2153": " 1/3 ", "\u2154": " 2/3 "},
}
_SIGNS = re.compile(
    "[\xa1-\xa9\xac-\xb4\xb6-\xb9\xbf\xd7\xf7\u2013-\u2023\u2030-\u203b\u203e-\u2042\u2044\u2070"
    "\u2074-\u207e\u2080-\u208e\u2100-\u2149\u214a-\u214d\u214f\u2155-\u215e\u2190-\u2bff"
    "\u3001\u3002\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-\uffe6]"
)

_L = r"[A-Za-z\u00aa-\u2009\u2030-\uffff]"  # letters, once the signs are gone
_W = _L[:-1] + "0-9]"
_APOS = r"['\u2019]"
_HYPHEN = r"[-\u2010\u2011\u058a]"
_LINK = r"[^\s\"<>|()]"
_LINK_END = r"[^\s\"<>|.!?(){},\-]"
_WORD = rf"{_L}{_W}*(?:[.!?]{_L}{_W}*)*"


def _any(words: str) -> str:
    return "|".join(words.split())


_ABBREVIATIONS = _any("""
adj adm adv al ala alex apr ariz assn assoc asst atty aug ave bhd bldg blvd brig bros capt cf cie
cmdr co col colo conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri
ft ga gen gov govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky lt ltd maj mar md mfg
mich minn mlle mme mo mon mont mr mrs ms msgr mt mtg natl neb nev nov oct okla penn pfc ph.d ph plc
ppte ppty pres prof pte ptes pty ptys pvt rd rep reps rev rt sen sens sep sept seq sfc sgt spc sq
sr st ste supt sys tel tenn thu tue tues univ va vs vt wed wis wisc wm wyo
""")
# Words of their own where they are not capitalised.
_STATES = _any("Ark Az Del Ill La Mass Miss Ore Pa Tex Wash")
_BEFORE_DIGITS = _any("art ca fig figs no nos op pp prop")


def _rule(pattern: str, exact_case: bool = False) -> re.Pattern[str]:
    return re.compile(pattern, 0 if exact_case else re.IGNORECASE)


# A match's first group, where there is one, is the token; what follows it only adds length.
_RULES = (
    _rule(rf"({_WORD}){_APOS}(?:[msd]|re|ve|ll)"),
    _rule(rf"({_L}+)n{_APOS}t"),
    _rule(r"(can)not|(gon)na|(got)ta|(lem)me|(gim)me|(wan)na|(more)'n"),
    _rule(r"('t)(?:is|was)"),
    _rule(r"(?:'(?:[msd]|re|ve|ll)(?![A-Za-z])|\u2019(?:[msd]|re|ve|ll))"),
    _rule(rf"n{_APOS}t(?![A-Za-z])"),
    _rule(rf"https?://{_LINK}+{_LINK_END}"),
    _rule(rf"www\.(?:[^\s\"<>|.!?(){{}},]+\.)+[a-z]{{2,4}}(?:/{_LINK}+{_LINK_END})?"),
    _rule(
        rf"(?:[^\s\"`'<>|.!?(){{}}\[\],:/=+\-$]+\.)+(?:com|net|org|edu)(?![a-z])(?:/{_LINK}+{_LINK_END})?"
    ),
    _rule(r"<?[a-z0-9][^\s\"<>|(){}]*@(?:[^\s\"<>|().{}]+\.)*[^\s\"<>|().{}]+>?"),
    _rule(rf"@[a-z_][a-z_0-9]*|#{_L}+"),
    _rule(r"&#[0-9]+;"),
    _rule(_WORD),
    _rule(rf"(?:{_ABBREVIATIONS}|[a-z](?:\.[a-z])*)\."),
    _rule(rf"(?:{_STATES}|{_STATES.upper()})\.", exact_case=True),
    # Numbers, and what is joined by hyphens, strokes and underscores.
    _rule(r"[-+]?(?:[0-9]+(?:[.:,][0-9]+)*|(?:[.:,][0-9]+)+)|[0-9][0-9.]*\.x\b"),
    _rule(rf"{_W}[\w.,]*(?:{_HYPHEN}(?:[a-z](?:\.[a-z])+\.|{_W}+))+".replace(r"\w", _W[1:-1])),
    _rule(rf"{_W}+(?:(?:{_HYPHEN}|_){_W}+)*"),
    _rule(rf"[dol]{_APOS}{_W}{{2,}}(?:[-_]{_W}+)*"),
    _rule(r"[a-z0-9]+(?:-[a-z]+){0,2}(?:/[a-z0-9]+(?:-[a-z]+){0,2}){1,2}"),
    # Words with an apostrophe at their beginning, in their middle or at their end.
    _rule(rf"{_APOS}(?:n(?:{_APOS}|(?!{_L}))|em|till?|cause|[2-9]0s|[0-9]{{2}}(?![\w'.]))"),
    _rule(rf"[ldj]{_APOS}|(?:ol|dunkin|somethin){_APOS}|(y{_APOS})[a-z]"),
    _rule(rf"[A-HJ-XZn]{_APOS}{_L}{{2,}}", exact_case=True),
    _rule(rf"{_L}+[aeiouyAEIOUY]{_APOS}[aeiouA-Z]{_L}*", exact_case=True),
    _rule(rf"(?:nor{_APOS}easter|e{_APOS}er|s{_APOS}mores|ev{_APOS}ry|li{_APOS}l|nat{_APOS}l)"),
    _rule(rf"c{_APOS}(?:mon|est)|o{_APOS}o"),
    _rule(r"[A-Z]+(?:[+&][A-Z]+)+|[A-Z]+\$|[cC]\+\+|[cCfF]#", exact_case=True),
    # Faces, and signs that keep together.
    _rule(r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]](?![A-Za-z0-9])", exact_case=True),
    _rule(r"[\^x=~<>]\.[\^x=~<>]|[-\^x=~<>']_[-\^x=~<>']|\([-\^x=~<>'][_.]?[-\^x=~<>']\)"),
    _rule(r"-(?:[lr][rcs]b)-|(?:anti|pro)-"),
    _rule(r"-{2,}|[?!]+|\*+|\#+|_+|@+|<<|>>|''"),
)

_ATTRIBUTE = r"(?:\s+[a-z][\w:.-]*(?:=(?:\"[^\"]*\"|'[^']*'|[\w:./-]*))?)"
_STARTERS = _any("""
A About According Additionally After An As At But Earlier He Her Here However If In It Last Many
More Now Once One Other Our She Since So Some Such That The Their Then There These They This We
What When While Yet You
""")

# What may hold a space: markup, telephone numbers, mixed fractions; and where the next word
# decides: the point stays in `no. 5`, and is that of a sentence in `plan b. The`. At the end of a
# caption it is, too: there the next caption decides, and most begin with "A".
_SPACED = re.compile(
    rf"(?P<tag><(?:[!?][a-z-][^>\n]*|/[a-z][\w:.-]*\s*|[a-z][\w:.-]*{_ATTRIBUTE}*\s*/?)>)"
    r"|(?<![\w/.,:+-])(?P<phone>(?:\([0-9]{2,3}\) ?|(?:\+\+?)?(?:[0-9]{2,4}[- ])?[0-9]{2,4}[- ])"
    r"[0-9]{3,4}[- ]?[0-9]{3,5})"
    r"|(?<![\w/.,:+-])(?P<mixed>[0-9]{1,4}[- ][0-9]{1,4}/[0-9]{1,4})(?![a-z0-9])"
    rf"|(?<![\w.,-])(?:{_BEFORE_DIGITS})\.(?=\s*[0-9])"
    rf"|(?<![\w.'\u2019&+/:;=<-])[a-z](?=\.(?:\s+(?-i:{_STARTERS})(?:\s|$)|\s*$))",
    re.IGNORECASE,
)


def tokenise(text: str) -> str:
    """The words of a caption: lower case, parted by one space, without plain punctuation.

    Args:
        text: any text, also empty or of several lines.

    Returns:
        What PTBTokenizer of pycocoevalcap 1.2 returns, up to the differences that the module
        names. May be empty. As there, a telephone number or a mixed fraction (`2 1/2`) is one
        token in which no-break spaces stay.
    """
    text = text.replace("\xa0", " ")
    tokens: list[str] = []
    start = 0
    for found in _SPACED.finditer(text):
        tokens += _plain(text[start : found.start()])
        token = " ".join(found[0].split()).replace(" ", "\xa0")
        tokens.append(token if found["tag"] else _spelled(token))
        start = found.end()
    tokens += _plain(text[start:])
    return " ".join(token.lower() for token in tokens if token not in DROPPED)


def _plain(text: str) -> list[str]:
    """The tokens of a text in which no token holds a space."""
    if "&" in text:
        text = _ENTITY.sub(lambda found: _ENTITIES[found[0].lower()], text)
    if not text.isascii():
        text = _NON_ASCII.sub(lambda found: _sign(found[0]), text)
    return [token for chunk in text.split() for token in _chunk(chunk)]


@lru_cache(maxsize=1 << 12)
def _sign(char: str) -> str:
    """What stands for a character beyond ASCII."""
    if char in _REWRITTEN:
        return _REWRITTEN[char]
    if char in _JOINING:
        return char
    category = unicodedata.category(char)
    if char <= "\uffff" and (category[0] == "L" or category in ("Nd", "Mn", "Mc")):
        return char if not _is_variation(char) else " "
    return f" {char} " if _SIGNS.match(char) else " "


def _is_variation(char: str) -> bool:
    return "\ufe00" <= char <= "\ufe0f"


@lru_cache(maxsize=1 << 16)
def _chunk(chunk: str) -> tuple[str, ...]:
    """The tokens of what stands between two spaces; captions repeat theirs, so it remembers."""
    tokens, start = [], 0
    while start < len(chunk):
        end, token = _longest(chunk, start)
        tokens.append(_spelled(token))
        start = end
    return tuple(tokens)


def _longest(chunk: str, start: int) -> tuple[int, str]:
    """Where the token that begins at `start` ends, and the token."""
    longest, end = start, start + 1
    for rule in _RULES:
        found = rule.match(chunk, start)
        if found and found.end() > longest:
            longest, end = found.end(), found.end(found.lastindex or 0)
    return end, chunk[start:end]


def _spelled(token: str) -> str:
    """How the token is written: brackets by name, the apostrophe of endings as in ASCII."""
    if token in _WRITTEN:
        return _WRITTEN[token]
    if token.lower().lstrip("n") in _ENDINGS or token == "\u2019":
        token = token.replace("\u2019", "'")
    elif token in ("---", "----"):
        return "--"
    return _BRACKET.sub(lambda found: _BRACKETS[found[0]], token)


_ENDINGS = frozenset("\u2019" + ending for ending in ("s", "m", "d", "t", "re", "ve", "ll"))
