"""The front matter of cards on the Hugging Face hub: the facts that its search and its licence check read.

The fields are those of the hub's cards as `huggingface_hub` writes them; licences are spelt as the hub lists them
(huggingface.co/docs/hub/repositories-licenses), and one that it does not list is `other` with its SPDX name beside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from slm.report.gather import Run
from slm.report.scan import NOT_RECORDED, Scan

OTHERWISE = {"odc-by-1.0": "odc-by", "pddl-1.0": "pddl", "odbl-1.0": "odbl", "gpl-3.0-only": "gpl-3.0"}
"""SPDX identifiers, in lower case, that the hub spells in another way."""
LISTED = frozenset(
    {
        "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "mpl-2.0", "gpl-3.0", "afl-3.0",
        "artistic-2.0", "bsl-1.0", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
        "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0", "cdla-permissive-1.0",
        "cdla-permissive-2.0", "odc-by", "pddl", "odbl",
    }
)  # fmt: skip
"""Licences that the hub knows by name and that have an SPDX identifier; it knows a few more."""
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
         (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"))  # fmt: skip


def licence_fields(expressions: Iterable[str]) -> dict[str, Any]:
    """`license`, and `license_name` where the hub has no word for one of them."""
    names = sorted(set(expressions))
    words = [OTHERWISE.get(name.lower(), name.lower()) for name in names]
    if words and set(words) <= LISTED:
        return {"license": words[0] if len(words) == 1 else words}
    return {"license": "other", "license_name": " AND ".join(names).lower().replace(" ", "-") or "unknown"}


def size_category(documents: int) -> str:
    """The hub's class of a data set with so many documents."""
    return next((word for limit, word in SIZES if documents < limit), "n>1T" if documents >= 10**12 else "10B<n<100B")


def languages(found: Scan) -> list[str]:
    """Codes of the languages that documents are in, the most text first; those that nobody recorded are left out."""
    named = sorted(found.languages.items(), key=lambda item: -item[1].bytes)
    return [name for name, _ in named if name != NOT_RECORDED]


def hub_datasets(sources: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the sources that are data sets on the hub."""
    return sorted({source["path"] for source in sources if source["kind"] == "hub"})


def dataset_front_matter(run: Run, found: Scan, title: str) -> str:
    """The YAML block at the head of a data card."""
    from huggingface_hub import DatasetCardData

    corpus = run.artifacts["corpus"]
    counts = corpus.counts
    documents = sum(counts[split]["documents"] for split in ("train", "validation"))
    data = DatasetCardData(
        language=languages(found) or None,
        size_categories=[size_category(documents)],
        source_datasets=hub_datasets(corpus.section["sources"]) or None,
        task_categories=["text-generation"],
        pretty_name=title,
        **licence_fields(facts["licence"] for facts in counts["sources"].values()),
    )
    return fenced(str(data.to_yaml()))


def fenced(block: str) -> str:
    """YAML between the lines that make it front matter."""
    return f"---\n{block.strip()}\n---\n\n"
