"""What can be said of a page without a browser: how its tags nest, and what a reader or a screen reader would miss."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "hr", "input", "link"}


class Checked(HTMLParser):
    """Collects what tests ask about, and fails on tags that do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def flaws(page: str) -> list[str]:
    """What is wrong with a page, in words."""
    return [*_headings(page), *_names(page), *_addresses(page)]


def _headings(page: str) -> Iterator[str]:
    levels = [int(level) for level in re.findall(r"<h([1-6])[ >]", page)]
    if levels[:1] != [1] or levels.count(1) != 1:
        yield "there is not one h1 at the head"
    yield from (f"h{low} is followed by h{high}" for low, high in itertools.pairwise(levels) if high > low + 1)
    for body in re.findall(r"<table.*?</table>", page, re.DOTALL):
        caption = re.match(r"<table[^>]*>\s*<caption[^>]*>(.*?)</caption>", body, re.DOTALL)
        if not caption or not caption[1].strip():
            yield f"a table without a caption: {body[:80]}"
        if len(re.findall(r"<th[ >]", body)) != len(re.findall(r'<th scope="(?:row|col)"', body)):
            yield f"a head without a scope: {body[:80]}"
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        if not re.match(
            r'<svg[^>]* role="img"[^>]* aria-labelledby="([^"]+)"[^>]*><title id="\1">[^<]+</title>', drawing
        ):
            yield f"a drawing without a title: {drawing[:80]}"
    if page.count("<figure") != page.count("<figcaption"):
        yield "a figure without a caption"


def _names(page: str) -> Iterator[str]:
    checked = Checked(page)
    identities = Counter(attributes["id"] for _, attributes in checked.tags if "id" in attributes)
    yield from (f"the id {name} is there {count} times" for name, count in identities.items() if count > 1)
    for tag, attributes in checked.tags:
        for key in ("aria-labelledby", "href", "xlink:href"):
            target = (attributes.get(key) or "").removeprefix("#")
            if target and not target.startswith(("http", "data:")) and target not in identities:
                yield f"{tag} points at {target}, which is not there"
    if [attributes.get("lang") for attributes in checked.all("html")] != ["en"]:
        yield "the language is not named"
    for landmark in ("header", "nav", "main"):
        if len(checked.all(landmark)) != 1:
            yield f"there is not one {landmark}"
    regions = [attributes for _, attributes in checked.tags if attributes.get("class") == "scroll"]
    yield from (f"a place that scrolls cannot be reached: {one}" for one in regions if one.get("tabindex") != "0")
    named = Counter(one.get("aria-label") for one in regions)
    yield from (f"{count} regions are named {name}" for name, count in named.items() if count > 1 or not name)


def _addresses(page: str) -> Iterator[str]:
    checked = Checked(page)
    for tag, attributes in checked.tags:
        if tag in ("script", "link", "img", "iframe", "object", "form"):
            yield f"there is a {tag}"
        for name, value in attributes.items():
            if name.startswith("on"):
                yield f"{tag} runs {value}"
            if name in ("href", "src", "srcset", "xlink:href", "action") and not (value or "").startswith("#"):
                yield f"{tag} asks for {value}"
    yield from (f"the style asks: {found}" for found in re.findall(r"@import|url\((?!#)[^)]*\)", page))
