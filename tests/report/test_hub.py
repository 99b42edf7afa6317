"""Front matter of the hub: licences in its spelling, sizes in its classes."""

from __future__ import annotations

import pytest

from slm.report.hub import hub_datasets, languages, licence_fields, size_category
from slm.report.scan import NOT_RECORDED, Scan


@pytest.mark.parametrize(
    ("expressions", "expected"),
    [
        (["Apache-2.0"], {"license": "apache-2.0"}),
        (["ODC-By-1.0", "ODC-By-1.0"], {"license": "odc-by"}),
        (["MIT", "CC0-1.0"], {"license": ["cc0-1.0", "mit"]}),
        (["PSF-2.0"], {"license": "other", "license_name": "psf-2.0"}),
        (["MIT", "PSF-2.0"], {"license": "other", "license_name": "mit-and-psf-2.0"}),
        ([], {"license": "other", "license_name": "unknown"}),
    ],
)
def test_licences_are_spelt_as_the_hub_lists_them(expressions, expected):
    assert licence_fields(expressions) == expected


@pytest.mark.parametrize(
    ("documents", "expected"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (5_000_000, "1M<n<10M"), (10**11, "10B<n<100B"), (10**12, "n>1T")],
)
def test_sizes_fall_into_the_classes_of_the_hub(documents, expected):
    assert size_category(documents) == expected


def test_languages_that_nobody_recorded_are_left_out():
    found = Scan()
    for size, language in ((5, "de"), (9, "en"), (50, NOT_RECORDED)):
        found.add(size, language, "MIT")
    assert languages(found) == ["en", "de"]


def test_sources_from_the_hub_are_named():
    sources = [{"kind": "hub", "path": "a/b"}, {"kind": "text", "path": "x"}, {"kind": "hub", "path": "a/b"}]
    assert hub_datasets(sources) == ["a/b"]
