"""A text into words and punctuation marks, as the published thresholds of Gopher's and FineWeb's rules count them.

In: a text. Out: its words in order, without white space. The rules are those of spaCy's English tokenizer, on which
datatrove's filters run: what white space separates is peeled of marks from both ends, contractions part (`do`, `n't`),
abbreviations keep their full stop, addresses stay whole, and what is left parts at dashes between letters and the
like. Because each piece between white space parts on its own, pieces are remembered, which makes this about as fast
as splitting at white space. Languages that write without spaces are not divided.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain, groupby

from slm.corpus.cleaning.english import exceptions


def _listed(text: str) -> tuple[str, ...]:
    """What white space separates."""
    return tuple(text.split())


REMEMBERED = 200_000
"""Pieces whose words are remembered, about 40 MB."""
BLOCK_CHARACTERS = 1 << 20
"""Texts are split by this much at a time, so that one of 100 MB does not become as many strings at once."""

MARKS = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
QUOTES = ",'\"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉⟨⟩"
CURRENCIES = r"US\$|C\$|A\$|[$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿]"
UNITS = _listed("""
km² km³ km m² m³ m/s m dm² dm³ dm cm² cm³ cm mm² mm³ mm ha µm nm yd in ft kg g mg µg t lb oz km/h kmh mph hPa Pa
mbar mb MB kb KB gb GB tb TB T G M K %
""")
PIECES_AND_GAPS = re.compile(r"[^\s]+|(?! [^\s])\s+")
PLAIN_MARKS = frozenset(".,;:!?)")
HYPHENS = "--|---|——|[-–—~]"


def _characters(ranges: str) -> frozenset[str]:
    """Characters by their code points: hexadecimal numbers and spans of them."""
    spans = (span.split("-") for span in ranges.split())
    return frozenset(chr(code) for span in spans for code in range(int(span[0], 16), int(span[-1], 16) + 1))


TERMINAL_MARKS = _characters("""
21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e 1735-1736 17d4-17d6 17d9-17da
1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f 1b7d-1b7e 1c3b-1c3c 1c7e-1c7f 203c-203d 2047-2049 2e2e 2e3c 2e53-2e54
3002 a4ff a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe52 fe56-fe57 ff01 ff0e ff1f
ff61 10a56-10a57 10f55-10f59 10f86-10f89 11047-11048 110be-110c1 11141-11143 111c5-111c6 111cd 111de-111df 11238-11239
1123b-1123c 112a9 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944 11946 11a42-11a43 11a9b-11a9c
11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44 16e98 1bc9f 1da88
""")
"""Marks that end a sentence: Unicode's property Sentence_Terminal, as FineWeb's rules take it."""
SYMBOLS = TERMINAL_MARKS | _characters("""
0-8 b-1f 21-2f 3a-40 5b-60 7b-9f ab b4 bb 2013-2014 2019 201c-201e 2026 2236 2501 25ba 3001-3002 3008-300d 3010-3011
ff01 ff05 ff08-ff09 ff0c ff0e ff11 ff1a-ff1b ff1f ff5e
""")
"""What no word consists of alone: punctuation and control characters, the list that CCNet and datatrove count by."""


def split_words(text: str) -> list[str]:
    """The words and punctuation marks of a text, in order."""
    if len(text) <= BLOCK_CHARACTERS:
        return list(chain.from_iterable(map(_PIECES.__getitem__, text.split())))
    words: list[str] = []
    start = 0
    while start < len(text):
        end = start + BLOCK_CHARACTERS
        while end < len(text) and not text[end].isspace():
            end += 1
        words += chain.from_iterable(map(_PIECES.__getitem__, text[start:end].split()))
        start = end
    return words


def count_sentences(line: str) -> int:
    """How many sentences a line has: one begins with what follows a mark that ends one and is no punctuation.

    White space other than a single space counts as such, which matters where only marks come after it.
    """
    sentences, ended = 1, False
    for piece in PIECES_AND_GAPS.findall(line):
        for word in (piece,) if piece.isspace() else _PIECES[piece]:
            if word in TERMINAL_MARKS:
                ended = True
            elif ended and not _is_punctuation(word):
                sentences, ended = sentences + 1, False
    return sentences


class _Pieces(dict[str, tuple[str, ...]]):
    """Piece to words, worked out at the first look; forgotten when full, so that memory stays bounded."""

    def __missing__(self, piece: str) -> tuple[str, ...]:
        words = tuple(map(sys.intern, _plainly(piece) or _split(piece)))
        if len(self) >= REMEMBERED:
            self.clear()
        if len(piece) < 100:
            self[piece] = words
        return words


_PIECES = _Pieces()


def _plainly(piece: str) -> list[str]:
    """What `_split` gives for letters with a mark at the end or none, most of all pieces; nothing for others."""
    known, mark = _rules().known, piece[-1:]
    letters = piece[:-1] if mark in PLAIN_MARKS else piece
    if not (letters.isascii() and letters.isalpha()) or letters in known or piece in known:
        return []
    return [letters] if letters is piece else [letters, mark] if mark != "." or letters[-1:].islower() else []


def _split(piece: str) -> list[str]:
    """Peel marks from both ends until nothing comes off or a known word is left, then part what is between."""
    rules = _rules()
    front: list[str] = []
    back: list[str] = []
    core, size = piece, 0
    while core and len(core) != size and core not in rules.known:
        size = len(core)
        before = rules.prefix.match(core)
        head = before.end() if before else 0
        if head and core[head:] in rules.known:
            front.append(core[:head])
            core = core[head:]
            break
        after = rules.suffix.search(core[head:])
        tail = len(after.group()) if after else 0
        if tail and core[: size - tail] in rules.known:
            back.append(core[size - tail :])
            core = core[: size - tail]
            break
        if head:
            front.append(core[:head])
        if tail:
            back.append(core[size - tail :])
        core = core[head : size - tail]
    return rules.rejoined([*front, *rules.parts(core), *reversed(back)])


class _Rules:
    """The patterns, made at the first use: they need the classes of all letters."""

    def __init__(self) -> None:
        lower = _letters(lambda sign: _is_letter(sign) and not sign.isupper())
        upper = _letters(lambda sign: _is_letter(sign) and not sign.islower())
        letter = _letters(_is_letter)
        icon = _letters(lambda sign: unicodedata.category(sign) == "So")
        marks, quotes = re.escape(MARKS), re.escape(QUOTES)
        units = "|".join(map(re.escape, UNITS))
        self.known = exceptions()
        self.prefix = re.compile(rf"[§%=—–{marks}{quotes}{icon}]|\+(?![0-9])|\.\.+|{CURRENCIES}")
        self.suffix = re.compile(
            rf"(?:[{marks}{quotes}{icon}—–]|\.\.+|['’][sS]|(?<=[0-9])(?:\+|{CURRENCIES}|{units})"
            rf"|(?<=°[FfCcKk])\.|(?<=[0-9{lower}%²+{marks}{quotes}|-])\.|(?<=[{upper}][{upper}])\.)$"
        )
        self.infix = re.compile(
            rf"\.\.+|[…{icon}]|(?<=[0-9])[+*^-](?=[0-9-])|(?<=[{lower}{quotes}])\.(?=[{upper}{quotes}])"
            rf"|(?<=[{letter}]),(?=[{letter}])|(?<=[{letter}0-9])(?:(?:{HYPHENS})|[:<>=/])(?=[{letter}])"
        )
        host = r"[A-Za-z0-9\u00a1-\uffff](?:[A-Za-z0-9\u00a1-\uffff_-]{0,62}[A-Za-z0-9\u00a1-\uffff])?"
        self.address = re.compile(
            rf"(?=[{letter}\w])(?:[\w+.-]{{2,}}://)?(?:\S+@)?(?:(?:{_PUBLIC_IP})|(?:{host}\.)+[{lower}]{{2,63}})"
            rf"(?::[0-9]{{2,5}})?(?:[/?#]\S*)?\Z"
        )
        """A web or e-mail address."""
        marked = [word for word in self.known if self.prefix.match(word) or self.infix.search(word)]
        marked += [word for word in self.known if self.suffix.search(word)]
        self.marked = frozenset(marked)
        """Known words that would part if they were not known."""

    def parts(self, core: str) -> Iterator[str]:
        """What is left between the peeled marks, parted."""
        if core in self.known or not core:
            yield from self.known.get(core, ())
            return
        start = 0
        if not self.address.match(core):
            for match in self.infix.finditer(core):
                if match.start() > start:
                    yield core[start : match.start()]
                yield match.group()
                start = match.end()
        if start < len(core):
            yield core[start:]

    def rejoined(self, words: list[str]) -> list[str]:
        """Known words that parted because of what stood beside them, put together: `(`, `and/or`, `)`."""
        if len(words) < 2:
            return words
        result: list[str] = []
        place = 0
        while place < len(words):
            for end in range(min(len(words), place + 5), place, -1):
                joined = "".join(words[place:end])
                if joined in self.marked:
                    result += self.known[joined]
                    place = end
                    break
            else:
                result.append(words[place])
                place += 1
        return result


_PUBLIC_IP = (
    r"(?!(?:10|127)(?:\.[0-9]{1,3}){3})(?!(?:169\.254|192\.168)(?:\.[0-9]{1,3}){2})"
    r"(?!172\.(?:1[6-9]|2[0-9]|3[01])(?:\.[0-9]{1,3}){2})"
    r"(?:[1-9][0-9]?|1[0-9]{2}|2[01][0-9]|22[0-3])(?:\.(?:1?[0-9]{1,2}|2[0-4][0-9]|25[0-5])){2}"
    r"\.(?:[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-4])"
)


@cache
def _rules() -> _Rules:
    return _Rules()


def _letters(belongs: Callable[[str], bool]) -> str:
    """Characters as ranges of a regular expression's class: of the basic plane and of the planes of signs."""
    codes = (code for code in chain(range(0xD800), range(0xE000, 0x20000)) if belongs(chr(code)))
    ranges = []
    for _, run in groupby(enumerate(codes), lambda pair: pair[1] - pair[0]):
        members = [code for _, code in run]
        ranges.append(f"{re.escape(chr(members[0]))}-{re.escape(chr(members[-1]))}")
    return "".join(ranges)


def _is_letter(sign: str) -> bool:
    """Letters, without those that modify or stand for something (ʾ, ª, µ); one without case counts as both."""
    return sign.isalpha() and sign not in "ªºµ" and unicodedata.category(sign) != "Lm"


def _is_punctuation(word: str) -> bool:
    return all(unicodedata.category(character).startswith("P") for character in word)
