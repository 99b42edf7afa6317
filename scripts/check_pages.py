"""The pages of a run in a real browser: drawn at three widths, light and dark, and looked through by axe-core.

    python scripts/check_pages.py --environment FOLDER --shots FOLDER runs/smoke [PAGE.html ...]

Of a run: its report, its data card (slm card) and its comparisons (slm compare). A page fails if the browser's console
has an error, if it asks for anything but itself, if it is wider than the screen (tables may scroll inside it), or if
axe-core finds a violation of impact serious or critical; what is folded away is opened for that. Lesser findings are
printed.

Chromium must be there (on Debian: apt-get install -y --no-install-recommends chromium). Playwright, which drives it,
and axe-core are installed into FOLDER where they are not there yet. The last line is one JSON object; the status is 1
if a page fails.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("playwright==1.65.2", "axe-playwright-python==0.1.8")  # the second brings axe-core 4.12.1
WIDTHS, HEIGHT, SCHEMES = (390, 1280, 1920), 900, ("light", "dark")
PHONE = 600
"""Narrower screens are driven as a telephone's."""
PIECE = 6000
"""Pixels of height in one picture; Chromium draws no more than 16,384."""
FAILING = ("serious", "critical")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TOO_WIDE = """() => document.documentElement.scrollWidth <= document.documentElement.clientWidth ? [] :
  [...document.querySelectorAll("body *")]
    .filter(item => item.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .slice(0, 5).map(item => `${item.tagName.toLowerCase()}.${item.className.baseVal ?? item.className}`)"""


def main() -> None:
    """Find the pages and the browser, go into the environment, check, and leave with a status."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("places", nargs="+", type=Path, help="folders of runs, or pages")
    parser.add_argument("--environment", type=Path, required=True, help="folder of Playwright and axe-core")
    parser.add_argument("--shots", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--browser", default=next(filter(None, map(shutil.which, BROWSERS)), ""), help="Chromium")
    args = parser.parse_args()
    pages = [page for place in args.places for page in pages_of(place)]
    if not args.browser:
        stop("there is no Chromium; apt-get install -y --no-install-recommends chromium, or name it by --browser")
    if Path(sys.prefix).resolve() != args.environment.resolve():
        sys.exit(subprocess.run([interpreter(args.environment), __file__, *sys.argv[1:]], check=False).returncode)
    args.shots.mkdir(parents=True, exist_ok=True)
    found = check(pages, args.browser, args.shots)
    failed = sum(bool(one["failures"]) for one in found)
    print(json.dumps({"pages": len(pages), "views": len(found), "failed": failed, "found": found}))
    sys.exit(1 if failed else 0)


def pages_of(place: Path) -> list[Path]:
    """The pages of a run, or the page itself."""
    if place.is_file():
        return [place]
    named = [place / "report" / "report.html", place / "card" / "card.html", *sorted(place.glob("*.html"))]
    found = [page for page in named if page.is_file()]
    return found or stop(f"{place} has no page; make it by slm report, slm card and slm compare")


def stop(sentence: str) -> Any:
    """Leave with a sentence."""
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def interpreter(environment: Path) -> str:
    """The Python of the environment, which is made where it is not there yet."""
    python, mark = environment / "bin" / "python", environment / "installed"
    if not mark.is_file() or mark.read_text(encoding="utf-8") != repr(PACKAGES):
        venv.create(environment, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        mark.write_text(repr(PACKAGES), encoding="utf-8")
    return str(python)


def check(pages: Sequence[Path], browser: str, shots: Path) -> list[dict[str, Any]]:
    """Every page at every width in both schemes."""
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for number, page in enumerate(pages, 1):
            for width in WIDTHS:
                for scheme in SCHEMES:
                    stem = f"{number}-{page.stem}-{width}-{scheme}"
                    one = view(chromium, page.resolve(), width, scheme, shots / stem)
                    found.append({"page": str(page), "width": width, "scheme": scheme, **one})
                    print(f"{page} at {width} px, {scheme}: {'; '.join(one['failures']) or 'sound'}")
                    for note in one["notes"]:
                        print(f"  note: {note}")
        chromium.close()
    return found


def view(chromium: Any, page: Path, width: int, scheme: str, shot: Path) -> dict[str, list[str]]:
    """One page on one screen: what fails, and what is only noted."""
    from axe_playwright_python.sync_playwright import Axe

    context = chromium.new_context(
        viewport={"width": width, "height": HEIGHT}, color_scheme=scheme, is_mobile=width < PHONE
    )
    tab = context.new_page()
    failures: list[str] = []
    tab.on("console", lambda said: failures.append(f"console: {said.text}") if said.type == "error" else None)
    tab.on("pageerror", lambda error: failures.append(f"error: {error}"))
    tab.on("request", lambda asked: failures.append(f"asks for {asked.url}") if asked.url != page.as_uri() else None)
    tab.goto(page.as_uri())
    height = tab.evaluate("document.documentElement.scrollHeight")
    for number, top in enumerate(range(0, height, PIECE), 1):
        clip = {"x": 0, "y": top, "width": width, "height": min(PIECE, height - top)}
        tab.screenshot(path=f"{shot}-{number}.png", full_page=True, clip=clip)
    tab.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
    wide = tab.evaluate(TOO_WIDE)
    if wide:
        failures.append(f"wider than the screen: {', '.join(wide)}")
    notes = []
    for impact, text in violations(Axe().run(tab).response["violations"]):
        (failures if impact in FAILING else notes).append(text)
    context.close()
    return {"failures": failures, "notes": notes}


def violations(found: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """What axe-core found, each with its impact."""
    for one in found:
        places = ", ".join(" ".join(map(str, node["target"])) for node in one["nodes"][:3])
        yield str(one["impact"]), f"{one['impact']} {one['id']}: {one['help']} ({len(one['nodes'])} times: {places})"


if __name__ == "__main__":
    main()
