"""Documents on both sides of every rule, from a seed: what cleaning and datatrove's filters are compared on.

Needs nothing but the standard library, so that the script which records datatrove's decisions can make them too, and
draws by `random()` alone, whose numbers are the same in every version of Python.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random


def _listed(text: str) -> tuple[str, ...]:
    """What white space separates."""
    return tuple(text.split())


WORDS = _listed("""
the be to of and a in that have it for not on with he as you do at this but his by from they we say her she or
an will my one all would there their what so up out if about who get which go me when make can like time no just
him know take people into year your good some could them see other than then now look only come its over think
also back after use two how our work first well way even new want because any these give day most us great world
school house water company important government different number system question information development
understanding international responsibility
""")
ODDITIES = _listed("""
don't can't won't I'm you've they'll she'd it's we're he'd've o'clock e.g. i.e. Mr. Dr. U.S. U.K. a.m. 5pm 10km
$5 £3.50 50% 3-4 1,000 3.14 state-of-the-art mother-in-law and/or his/her www.example.net
https://example.net/a/b?c=d user@host.net "quoted" (in brackets) [1] semi; colon: dash— em–dash ... … wait...
C++ #tag @name 24/7 A.B. rock'n'roll “curly” ‘single’ naïve café Zürich straße 東京 привет don’t it’s 10am 3rd 2nd
vs. etc. No. x=y a<b 1+1 -- --- * _under_ ~5 &amp; 6'2" cannot
""")
ENDS = [".", ".", ".", ".", "?", "!", "...", "", ",", ":", '."', ".)"]


class Draw:
    """Choices from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def below(self, limit: int) -> int:
        return int(self._random.random() * limit)

    def between(self, low: int, high: int) -> int:
        return low + self.below(high - low + 1)

    def one(self, items: Sequence[str]) -> str:
        return items[self.below(len(items))]

    def chance(self, share: float) -> bool:
        return self._random.random() < share


def sentence(draw: Draw, words: int, odd: float = 0.05, ends: Sequence[str] = ENDS) -> str:
    chosen = [draw.one(ODDITIES if draw.chance(odd) else WORDS) for _ in range(words)]
    return " ".join(chosen).capitalize() + draw.one(ends)


def prose(draw: Draw, words: int, odd: float = 0.05, ends: Sequence[str] = ENDS) -> str:
    """Sentences in paragraphs, about `words` long."""
    text: list[str] = []
    while words > 0:
        length = min(words, draw.between(3, 25))
        text += [sentence(draw, length, odd, ends), draw.one([" ", " ", " ", "\n", "\n\n", "  ", "\t"])]
        words -= length
    return "".join(text)


def around_the_word_limit(draw: Draw) -> str:
    return prose(draw, draw.between(40, 60), 0.2)


def odd_words(draw: Draw) -> str:
    return prose(draw, draw.between(60, 400), 0.3 + draw.below(7) / 10)


def ordinary(draw: Draw) -> str:
    return prose(draw, draw.between(60, 600))


def long_or_short_words(draw: Draw) -> str:
    letters = draw.between(1, 14)
    words = ["abcdefghijklmnop"[: max(1, letters + draw.between(-2, 2))] for _ in range(80)]
    return " ".join([*words, *(draw.one(WORDS) for _ in range(draw.between(0, 80)))]) + "."


def symbols(draw: Draw) -> str:
    mark = draw.one(["#", "...", "…", "*", "=", "|"])
    words = prose(draw, 150).split(" ")
    share = draw.below(30) / 100
    return " ".join(f"{word} {mark}" if draw.chance(share) else word for word in words)


def listed(draw: Draw) -> str:
    bullet, share = draw.one(["•", "-", "*", " - ", "1."]), 0.6 + draw.below(50) / 100
    lines = [
        f"{bullet if draw.chance(share) else ''} {sentence(draw, draw.between(1, 9), 0.05, ['', '.', '...'])}"
        for _ in range(draw.between(10, 40))
    ]
    return "\n".join(lines)


def trailing_off(draw: Draw) -> str:
    share = draw.below(60) / 100
    lines = [
        sentence(draw, draw.between(5, 12), 0, ["..."] if draw.chance(share) else ["."])
        + draw.one(["", " ", "…"] if draw.chance(share) else [""])
        for _ in range(30)
    ]
    return "\n".join(lines)


def repeated_lines(draw: Draw) -> str:
    pool = [sentence(draw, draw.between(4, 20)) for _ in range(draw.between(4, 30))]
    gap = draw.one(["\n", "\n\n", "\n\n\n"])
    return gap.join(draw.one(pool) for _ in range(draw.between(5, 30)))


def repeated_runs(draw: Draw) -> str:
    run = " ".join(draw.one(WORDS) for _ in range(draw.between(2, 14)))
    share = draw.below(40) / 100
    return ". ".join(
        run if draw.chance(share) else " ".join(draw.one(WORDS) for _ in range(draw.between(3, 12))) for _ in range(60)
    )


def numbers(draw: Draw) -> str:
    share = draw.below(50) / 100
    words = [str(draw.below(10_000)) if draw.chance(share) else draw.one(WORDS) for _ in range(200)]
    return " ".join(words) + "."


def foreign(draw: Draw) -> str:
    words = _listed("""
der die und das nicht ist von haus schön größe straße jahr welt menschen être où déjà garçon
""")
    share = 0.5 + draw.below(50) / 100
    return " ".join(draw.one(words) if draw.chance(share) else draw.one(WORDS) for _ in range(120)) + "."


def web_page(draw: Draw) -> str:
    extras = [
        "Please enable JavaScript to view this page.", "This site uses cookies to improve your visit.",
        "Read our Privacy Policy and our terms of use here.", "Lorem ipsum dolor sit amet.", "if (a) { return b; }",
        "Home", "About us", "© 2020", "Share this", f"{'w' * draw.between(990, 1010)} ends here now.",
    ]  # fmt: skip
    lines = [
        draw.one(extras) if draw.chance(0.2) else sentence(draw, draw.between(1, 15))
        for _ in range(draw.between(5, 25))
    ]
    return draw.one(["\n", "\n", "\r\n", "\n\n"]).join(lines)


def few_sentences(draw: Draw) -> str:
    return "\n".join(sentence(draw, draw.between(2, 8), 0.3) for _ in range(draw.between(2, 8)))


def cited(draw: Draw) -> str:
    marks = ["[1]", "[23]", "[edit]", "[citation needed]", "[]", "[[1]]", "[note]"]
    return "\n".join(
        " ".join(
            f"{word}{draw.one(marks)}" if draw.chance(0.1) else word for word in sentence(draw, 10, 0, ["."]).split()
        )
        + draw.one(["", "", "[1]"])
        for _ in range(8)
    )


def short_lines(draw: Draw) -> str:
    limit = draw.between(1, 9)
    return "\n".join(sentence(draw, draw.between(1, limit)) for _ in range(draw.between(15, 40)))


def addresses(draw: Draw) -> str:
    parts = [
        "jane.doe@example.net", "a@b", "x+tag@mail.example.co.uk", "..a@b.cc", "a..b@c.dd", "user@[10.0.0.1]", "é@a.bc",
        "me@1.2.3.4", "8.8.8.8", "192.168.0.1", "256.1.1.1", "1.2.3.4.5", "010.8.8.8", "127.0.0.1", "93.184.216.34:80",
        "v1.2.3.4", "{x}@y.zz", "(a@b.cd)", "a@b.cd,e@f.gh", "@name", "name@", "a@-b.cd", "a@b-.cd", "x@y.z9",
    ]  # fmt: skip
    return " ".join(draw.one(parts) if draw.chance(0.2) else draw.one(WORDS) for _ in range(60))


def misread(draw: Draw) -> str:
    text = prose(draw, 60, 0.4)
    broken = text.encode().decode(draw.one(["latin-1", "cp1252", "cp437"]), "replace")
    extras = [
        "\x1b[31mred\x1b[0m", "&eacute;t&eacute;", "&lt;b&gt;", "<p>", "\ufeff", "\x85", "a\x00b", "â€œhiâ€\x9d",
        "e\u0301",
    ]  # fmt: skip
    return "\n".join(
        f"{line} {draw.one(extras)}" if draw.chance(0.3) else line for line in (broken + "\n" + text).split("\n")
    )


def spaced(draw: Draw) -> str:
    gaps = [" ", " ", " ", "  ", "\u00a0", "\t", "\u2028", "\x0b", "\n", "\r\n", "\x85", "\u3000"]
    pieces = (draw.one(WORDS) + (draw.one(ENDS) if draw.chance(0.15) else "") + draw.one(gaps) for _ in range(150))
    return "".join(pieces)


def tiny(draw: Draw) -> str:
    return draw.one([".", "a", "...", "#", "Hello.", "• one\n• two", "\u2026", "1 2 3", "{", "東京"])


def list_of_words(draw: Draw) -> str:
    """Lines of one long word or a few short ones, so that line breaks are many beside words."""
    return "\n".join(
        f"{draw.one(['inter', 'multi', 'trans'])}{'nationalisation' * draw.between(2, 3)}"
        + (f" {sentence(draw, draw.between(1, 4), 0, [''])}" if draw.chance(0.5) else "")
        + f"{number}."
        for number in range(draw.between(5, 30))
    )


def blank_or_long(draw: Draw) -> str:
    return draw.one([" ", "\n\n", "\t", "\u2003\n", "the and that\n" * 33_400, "word and the " * 33_333])


KINDS: tuple[Callable[[Draw], str], ...] = (
    ordinary, ordinary, around_the_word_limit, odd_words, long_or_short_words, symbols, listed, trailing_off,
    repeated_lines, repeated_runs, numbers, foreign, web_page, few_sentences, cited, short_lines, addresses, misread,
    spaced, tiny, list_of_words,
)  # fmt: skip


def documents(seed: int = 1, each: int = 40) -> Iterator[tuple[str, str]]:
    """Name and text of `each` documents of every kind."""
    for place, kind in enumerate(KINDS):
        for number in range(each):
            draw = Draw(seed * 1_000_003 + place * 10_007 + number)
            yield f"{kind.__name__}/{place}-{number}", kind(draw)
    for number in range(8):
        yield f"blank_or_long/{number}", blank_or_long(Draw(seed * 1_000_003 + 999_983 + number))


def real_documents(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and text of the documents in `folder`: .txt files cut at blank lines into pieces, .jsonl by line."""
    for path in sorted(folder.rglob("*.txt")):
        text = path.read_text(encoding="utf-8", errors="replace")
        lines = text.split("\n")
        for number, start in enumerate(range(0, len(lines), 60)):
            piece = "\n".join(lines[start : start + 60])
            if piece.strip():
                yield f"{path.name}/{number}", piece
    for path in sorted(folder.rglob("*.jsonl")):
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream):
                row = json.loads(line)
                text = "\n".join(str(value) for value in row.values() if isinstance(value, str))
                if text.strip():
                    yield f"{path.name}/{number}", text


def digest(text: str) -> str:
    """What stands for a text in the recording."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
