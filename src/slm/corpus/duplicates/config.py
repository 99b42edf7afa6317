"""How alike two documents must be to count as one."""

from __future__ import annotations

from pydantic import Field, model_validator

from slm.core.config import Config

PRESETS: dict[float, tuple[int, int]] = {
    0.5: (20, 3),
    0.6: (18, 4),
    0.7: (20, 6),
    0.8: (14, 8),
    0.9: (8, 12),
}
"""Threshold to bands and rows; a pair exactly as alike as the threshold shares a band with probability
1 - (1 - t**rows)**bands, which is .93, .92, .92, .92 and .93. 14 x 8 is FineWeb's (arXiv 2406.17557)."""


class DuplicatesConfig(Config):
    """Documents that repeat another are left out: exact copies, and those that share most of their runs of words."""

    exact: bool = True
    """Leave out documents that are the same but for case and white space."""
    near: bool = True
    """Also leave out documents that are alike to `threshold`."""
    near_conversations: bool = False
    """Compare conversations too; else only their copies are left out. Questions over one passage, or after one system
    message, share most of their words, and are no duplicates."""
    threshold: float = Field(0.8, ge=0.5, le=1)
    """Least Jaccard similarity of two documents' sets of word runs, compared exactly, to leave one out."""
    shingle_words: int = Field(5, ge=1, le=32)
    """Words in a run; a document with fewer is one run and has only equals."""
    bands: int = Field(0, ge=0, le=256)
    """Keys per document, of which candidates share one; 0 takes the preset of the threshold (14 at 0.8)."""
    rows: int = Field(0, ge=0, le=64)
    """MinHash values per key; 0 takes the preset of the threshold (8 at 0.8)."""

    paragraphs: bool = False
    """Also cut paragraphs out of documents where they stand in an earlier one, or above, word for word."""
    min_paragraph_words: int = Field(20, ge=1)
    """Paragraphs of fewer words are not cut: dates, names, headings repeat rightly."""

    @property
    def shape(self) -> tuple[int, int]:
        """Bands and rows in use: those given, else the preset of the next lower threshold; (0, 0) without `near`."""
        if not self.near:
            return 0, 0
        preset = PRESETS[max(known for known in PRESETS if known <= self.threshold)]
        return self.bands or preset[0], self.rows or preset[1]

    @model_validator(mode="after")
    def _fits_together(self) -> DuplicatesConfig:
        if bool(self.bands) != bool(self.rows):
            raise ValueError(
                f"bands ({self.bands}) and rows ({self.rows}) go together; give both, or neither to take those of the "
                "threshold"
            )
        if self.near and not self.exact:
            raise ValueError("near duplicates include exact ones; set exact=true, or near=false to keep all")
        if self.paragraphs and not self.exact:
            raise ValueError("paragraphs are compared once documents are; set exact=true, or paragraphs=false")
        return self
