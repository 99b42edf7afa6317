"""The audit of a corpus as one self-contained HTML page.

In: pairs of texts under a title each. Out: HTML that asks nobody for anything, in which no text is markup. Pairs stand
side by side, one below the other on narrow screens; of pairs that are the same text before and after, what differs is
marked, found by `difflib` over the words of a few hundred characters (about 1 ms a pair).
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

TOKEN = re.compile(r"\w+|\W")
"""What is compared: words and single signs, since parts of words that happen to agree would be told from the rest."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A text, and a word on what it is; `cut` where the document goes on."""

    title: str
    text: str
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Pairs:
    """Texts that stand beside each other, under one title; `marked` where the right one was made of the left one."""

    title: str
    pairs: Sequence[tuple[Shown, Shown]]
    marked: bool = False


def page(title: str, found: Sequence[Pairs]) -> str:
    """The page."""
    links = Markup().join(
        Markup('<li><a href="#s{}">{}</a></li>\n').format(number, of.title) for number, of in enumerate(found)
    )
    body = Markup().join(_section(number, of) for number, of in enumerate(found))
    return str(Markup(_PAGE).format(title=title, links=links, body=body or Markup("<p>Nothing.</p>")))


def plain(text: str) -> str:
    """A text whose control characters can be seen, and move nothing; line feeds and tabs stay."""
    return "".join(_visible(sign) for sign in text)


def differences(before: str, after: str, cut: bool = False) -> tuple[Markup, Markup]:
    """Both texts as markup, with what only one of them has in `del` and `ins`; `cut` where the texts go on."""
    left, right = Markup(), Markup()
    words, others = (TOKEN.findall(text) for text in (before, after))
    for kind, a, b, c, d in difflib.SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        gone, new = "".join(words[a:b]), "".join(others[c:d])
        goes_on = cut and b == len(words) and d == len(others)  # whether that is a difference is not to be seen
        if kind == "equal" or goes_on:
            left, right = left + escape(plain(gone)), right + escape(plain(new))
            continue
        left += Markup("<del>{}</del>").format(_plain_change(gone)) if gone else ""
        right += Markup("<ins>{}</ins>").format(_plain_change(new)) if new else ""
    return left, right


def _visible(sign: str) -> str:
    if sign in "\n\t" or sign.isprintable() or unicodedata.category(sign) == "Zs":
        return sign
    return ascii(sign)[1:-1]  # as Python writes it, since few fonts have pictures of control characters


def _plain_change(text: str) -> str:
    """What changed, white space visible too."""
    named = "".join(ascii(sign)[1:-1] if not (sign.isprintable() or sign in "\n\t") else sign for sign in text)
    return named.replace("\n", "\\n\n").replace("\t", "\\t\t")


def _section(number: int, of: Pairs) -> Markup:
    pairs = Markup()
    for left, right in of.pairs:
        texts = escape(plain(left.text)), escape(plain(right.text))
        if of.marked:
            texts = differences(left.text, right.text, left.cut or right.cut)
        pairs += Markup('<div class="pair">\n{}</div>\n').format(
            Markup().join(
                Markup("<article><h3>{}</h3><pre>\n{}</pre></article>\n").format(shown.title, text)
                for shown, text in zip((left, right), texts, strict=True)
            )
        )
    return Markup('<section id="s{}"><h2>{}</h2>\n{}</section>\n').format(number, of.title, pairs)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Audit of {title}</title>
<style>
:root {{
  color-scheme: light dark;
  --paper: #fdfcfa; --raised: #f5f3ee; --ink: #1d1c1a; --muted: #6a665f; --line: #e3dfd7;
  --gone: #f6d5cc; --new: #cfe6cf;
}}
@media (prefers-color-scheme: dark) {{
  :root {{
    --paper: #141517; --raised: #1d1f22; --ink: #e8e6e1; --muted: #9d9a93; --line: #2d3033;
    --gone: #5c2b20; --new: #234a2c;
  }}
}}
* {{ box-sizing: border-box }}
body {{
  font: 400 1rem/1.6 system-ui, -apple-system, "Segoe UI", "Noto Sans", "Liberation Sans", sans-serif;
  max-width: 80rem; margin: 0 auto; padding: clamp(1.5rem, 4vw, 3.5rem) clamp(1rem, 4vw, 3rem) 5rem;
  background: var(--paper); color: var(--ink);
}}
h1 {{ font-size: clamp(1.5rem, 4vw, 2.25rem); line-height: 1.15; letter-spacing: -.02em; margin: 0 0 .75rem }}
h1, h2, h3, p, a {{ overflow-wrap: anywhere }}
p {{ max-width: 42rem; margin: 0; color: var(--muted) }}
nav ol {{ margin: 1.5rem 0 0; padding: 0; list-style: none; font-size: .875rem; columns: 22rem auto; column-gap: 2rem }}
a {{ color: inherit; text-decoration-color: var(--line); text-underline-offset: .25em }}
section {{ margin-top: 3rem; padding-top: 1.25rem; border-top: 1px solid var(--line) }}
h2 {{ font-size: 1.1875rem; line-height: 1.3; margin: 0 0 1rem }}
h3 {{ font-size: .8125rem; font-weight: 500; line-height: 1.45; color: var(--muted); margin: 0 }}
.pair {{ display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.25rem; margin-bottom: 1.5rem }}
article {{ min-width: 0; display: flex; flex-direction: column }}
pre {{
  flex: 1; margin: .375rem 0 0; padding: .75rem .875rem; border-radius: 6px; background: var(--raised);
  font: 400 .8125rem/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; max-height: 22rem; overflow-y: auto; tab-size: 4;
}}
del, ins {{ text-decoration: none; border-radius: 2px }}
del {{ background: var(--gone) }}
ins {{ background: var(--new) }}
@media (max-width: 44rem) {{
  .pair {{ grid-template-columns: minmax(0, 1fr); gap: .75rem; padding-bottom: 1.5rem }}
  .pair + .pair {{ padding-top: 1.5rem; border-top: 1px solid var(--line) }}
  pre {{ max-height: 14rem }}
}}
@media print {{ pre {{ max-height: none }} }}
</style></head><body>
<h1>Audit of {title}</h1>
<p>What was kept beside what was dropped, by reason, and what cleaning steps changed, before and after: samples, the
same however the corpus was made, cut to size.</p>
<nav aria-label="Contents"><ol>
{links}</ol></nav>
{body}</body></html>
"""
