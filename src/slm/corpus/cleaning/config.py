"""The steps that clean a document, as a recipe lists them; every default is the published value.

A list reads as a specification: `steps: [{step: unicode}, {step: gopher_quality, min_words: 100}]` runs from left to
right, and the first step that refuses a document gives its reason. A threshold of 0 never drops anything.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from slm.core.config import Config

Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
"""A ratio between 0 and 1."""


class UnicodeStep(Config):
    """Repair text whose encoding was misread, drop characters that show nothing, bring it into one normal form.

    The repair is ftfy's (Speer 2019), with the switches that FineWeb's pipeline sets: quotes, ligatures, widths and
    line breaks stay as written. Never drops a document.
    """

    step: Literal["unicode"] = "unicode"
    """The step's name."""
    repair: bool = True
    """Undo misread encodings (`schÃ¶n` for `schön`), drop control characters and terminal escapes."""
    unescape_html: bool = False
    """Also turn `&amp;` into `&` up to the first line with a `<`; for web pages, not for source code."""
    normal_form: Literal["NFC", "none"] = "NFC"
    """Unicode normal form (UAX #15) of the result."""


class LineFeedsStep(Config):
    """Line ends of Windows (CR LF) and of the old Macintosh (CR) become line feeds. Never drops a document."""

    step: Literal["line_feeds"] = "line_feeds"
    """The step's name."""


class LanguageStep(Config):
    """Identify the language and keep documents in the wanted ones; language and confidence go into the metadata.

    The model is fastText's lid.176 (Joulin et al. 2016), in its compressed form, which comes with a package. FineWeb
    keeps English above 0.65 (Penedo et al. 2024) by the same model uncompressed.
    """

    step: Literal["language"] = "language"
    """The step's name."""
    keep: tuple[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")], ...] = ()
    """Languages to keep, as ISO 639-1 codes such as en; empty keeps every language."""
    min_confidence: Share = 0.65
    """Drop what is no more probable than this to be in a language to keep; 0 with no `keep` only takes note."""


class GopherQualityStep(Config):
    """The quality rules of Gopher (Rae et al. 2021, arXiv:2112.11446, section A1.1), for English prose."""

    step: Literal["gopher_quality"] = "gopher_quality"
    """The step's name."""
    min_words: int = Field(50, ge=0)
    """Fewest words, punctuation not counted."""
    max_words: int = Field(100_000, ge=0)
    """Most words, punctuation not counted."""
    min_mean_word_length: float = Field(3, ge=0)
    """Shortest mean length of a word in characters."""
    max_mean_word_length: float = Field(10, ge=0)
    """Longest mean length of a word in characters."""
    max_symbols_per_word: float = Field(0.1, ge=0)
    """Most hash signs per word, and most ellipses per word."""
    max_bullet_lines: Share = 0.9
    """Largest share of lines that begin with a bullet or a hyphen."""
    max_ellipsis_lines: Share = 0.3
    """Largest share of lines that end in an ellipsis."""
    min_alphabetic_words: Share = 0.8
    """Smallest share of words with a letter, punctuation counted as words."""
    min_stop_words: int = Field(2, ge=0, le=8)
    """How many of the words the, be, to, of, and, that, have, with must occur, in lower case."""


class GopherRepetitionStep(Config):
    """The repetition rules of Gopher (Rae et al. 2021, arXiv:2112.11446, table A1): shares of the text's characters."""

    step: Literal["gopher_repetition"] = "gopher_repetition"
    """The step's name."""
    max_duplicate_lines: Share = 0.3
    """Largest share of lines that occurred before."""
    max_duplicate_paragraphs: Share = 0.3
    """Largest share of paragraphs that occurred before."""
    max_duplicate_line_characters: Share = 0.2
    """Largest share of characters in lines that occurred before."""
    max_duplicate_paragraph_characters: Share = 0.2
    """Largest share of characters in paragraphs that occurred before."""
    max_top_ngrams: dict[int, Share] = Field({2: 0.2, 3: 0.18, 4: 0.16})
    """By n: largest share of characters in the most frequent run of n words."""
    max_duplicate_ngrams: dict[int, Share] = Field({5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1})
    """By n: largest share of characters in runs of n words that occurred before."""

    @model_validator(mode="after")
    def _lengths_are_positive(self) -> GopherRepetitionStep:
        for name in ("max_top_ngrams", "max_duplicate_ngrams"):
            for length in getattr(self, name):
                if length < 1:
                    raise ValueError(f"{name} counts runs of {length} words; a run has at least one")
        return self


class C4Step(Config):
    """The page and line rules of C4 (Raffel et al. 2020, arXiv:1910.10683, section 2.2).

    Lines go, and a document goes if a forbidden phrase occurs or too few sentences are left. FineWeb uses it with
    `terminal_punctuation: false`. The list of indecent words is not applied.
    """

    step: Literal["c4"] = "c4"
    """The step's name."""
    terminal_punctuation: bool = True
    """Drop lines that do not end in a full stop, question mark, exclamation mark or quotation mark."""
    citations: bool = True
    """Delete Wikipedia's marks, such as [1], [edit] and [citation needed]."""
    min_words_per_line: int = Field(3, ge=0)
    """Drop lines with fewer words than this, as white space separates them."""
    max_word_length: int = Field(1_000, ge=0)
    """Drop lines with a longer word than this, in characters."""
    javascript: bool = True
    """Drop lines that mention JavaScript."""
    policies: bool = True
    """Drop lines about cookies, privacy policies and terms of use."""
    lorem_ipsum: bool = True
    """Drop documents with the typesetters' filler."""
    curly_bracket: bool = True
    """Drop documents with an opening curly bracket, which are program code."""
    min_sentences: int = Field(5, ge=0)
    """Drop documents with fewer sentences than this in the lines that are left."""


class FineWebQualityStep(Config):
    """The rules that FineWeb adds to Gopher's and C4's (Penedo et al. 2024, arXiv:2406.17557, section 3.6)."""

    step: Literal["fineweb_quality"] = "fineweb_quality"
    """The step's name."""
    min_punctuated_lines: Share = 0.12
    """Smallest share of lines that end in terminal punctuation."""
    max_short_lines: Share = 0.67
    """Largest share of lines of at most `short_line_characters`."""
    short_line_characters: int = Field(30, ge=0)
    """How long a short line is at most."""
    max_duplicate_line_characters: Share = 0.01
    """Largest share of characters in lines that occurred before."""
    max_newlines_per_word: float = Field(0.3, ge=0)
    """Most line breaks per word: above it, the document is a list."""


class PiiStep(Config):
    """Personal data: addresses replaced by ones that belong to nobody, telephone numbers counted in the metadata.

    E-mail addresses are found by the grammar of RFC 5322 (dot-atoms) and replaced within example.com and example.org
    (RFC 2606); public IPv4 addresses are replaced by documentation addresses (RFC 5737), private ones stay. Names and
    postal addresses are not looked for. Never drops a document.
    """

    step: Literal["pii"] = "pii"
    """The step's name."""
    emails: bool = True
    """Replace e-mail addresses."""
    ips: bool = True
    """Replace public IPv4 addresses."""
    phones: bool = True
    """Count telephone numbers in the metadata, as `phones`; the text keeps them."""


class QualityScoreStep(Config):
    """Keep documents that a linear model finds good; the score goes into the metadata as `quality`.

    The model is made from two sets of documents by `slm corpus score`, and weighs hashed words and pairs of words.
    """

    step: Literal["quality_score"] = "quality_score"
    """The step's name."""
    model: str
    """The folder that `slm corpus score` wrote."""
    min_score: Share = 0.5
    """Drop what is less probable than this to belong with the good documents; 0 only takes note."""


StepConfig: TypeAlias = Annotated[
    UnicodeStep
    | LineFeedsStep
    | LanguageStep
    | GopherQualityStep
    | GopherRepetitionStep
    | C4Step
    | FineWebQualityStep
    | PiiStep
    | QualityScoreStep,
    Field(discriminator="step"),
]
"""One step; the key `step` says which."""
