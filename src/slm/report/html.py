"""A page's parts as one HTML file that asks nobody for anything.

In: what `markdown` takes as well, and verdicts. Out: HTML without scripts. The template and its style sheet lie beside
this file and are put into the page. Every text is escaped; only the charts' markup is taken as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from slm.report.page import Fact, Section, Verdict, present, visible

FOLDER = Path(__file__).parent
TEMPLATE, STYLE = "template.html.jinja", "style.css"


def page(
    title: str,
    kind: str,
    summary: str,
    headline: Sequence[Fact],
    sections: Sequence[Section],
    verdicts: Sequence[Verdict] = (),
) -> str:
    """A page of the one layout; `kind` says above its title what it is."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) or not isinstance(value, str) else visible(value),
    )
    environment.filters["markup"] = Markup
    return environment.get_template(TEMPLATE).render(
        title=title,
        kind=kind,
        summary=summary,
        headline=headline,
        verdicts=verdicts,
        sections=present(sections),
        style=Markup((FOLDER / STYLE).read_text(encoding="utf-8")),  # our own file, not text of the run
    )
