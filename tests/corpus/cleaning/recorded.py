"""What datatrove's filters decided, as scripts/record_filter_decisions.py wrote it down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.corpus.cleaning.documents import digest

GOLDEN = Path(__file__).parents[2] / "golden"
REASONS = {
    "gopher_quality": {
        "gopher_short_doc": "short",
        "gopher_long_doc": "long",
        "gopher_below_avg_threshold": "short_words",
        "gopher_above_avg_threshold": "long_words",
        "gopher_too_many_hashes": "hash_signs",
        "gopher_too_many_ellipsis": "ellipses",
        "gopher_too_many_bullets": "bullet_lines",
        "gopher_too_many_end_ellipsis": "ellipsis_lines",
        "gopher_below_alpha_threshold": "few_letters",
        "gopher_enough_stop_words": "few_stop_words",
    },
    "gopher_repetition": {
        "dup_para_frac": "duplicate_paragraphs",
        "dup_para_char_frac": "duplicate_paragraph_characters",
        "dup_line_frac": "duplicate_lines",
        "dup_line_char_frac": "duplicate_line_characters",
        **{f"top_{length}_gram": f"top_{length}_gram" for length in range(2, 5)},
        **{f"duplicated_{length}_n_grams": f"duplicate_{length}_grams" for length in range(5, 11)},
    },
    "c4": {"lorem_ipsum": "lorem_ipsum", "curly_bracket": "curly_bracket", "too_few_sentences": "few_sentences"},
    "fineweb_quality": {
        "empty": "empty",
        "line_punct_ratio": "unpunctuated_lines",
        "short_line_ratio": "short_lines",
        "char_dup_ratio": "duplicate_line_characters",
        "list_ratio": "list",
    },
}
"""datatrove's reasons in our words."""


def recording(name: str, pairs: list[tuple[str, str]]) -> dict[str, list[Any]]:
    """The decisions by step, about exactly these documents."""
    content = json.loads((GOLDEN / name).read_text(encoding="utf-8"))
    made = [[name, digest(text)] for name, text in pairs]
    assert content["documents"] == made, "the documents changed; record anew with scripts/record_filter_decisions.py"
    decisions: dict[str, list[Any]] = content["decisions"]
    return decisions
