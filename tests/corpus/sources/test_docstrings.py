from __future__ import annotations

import sys

from slm.corpus.sources.docstrings import module_names, module_prose


def test_functions_and_methods_stand_under_their_signatures() -> None:
    text = module_prose("math")
    assert text.startswith("The module math\n\nThis module provides access to the mathematical functions")
    assert "\n\nacos(x, /)\n    Return the arc cosine (measured in radians) of x.\n" in text
    assert "\n\nclass count" in module_prose("itertools")
    assert "\n\ndict.keys" in module_prose("builtins")


def test_the_receiver_is_not_shown_as_a_parameter() -> None:
    assert "$" not in module_prose("math")
    assert "list.append(object, /)" in module_prose("builtins")


def test_modules_written_in_c_are_listed_without_those_for_tests() -> None:
    names = module_names()
    assert names == sorted(names)
    assert {"math", "builtins", "sys"} <= set(names)
    assert not {"_testcapi", "xxlimited", "readline", "_xxsubinterpreters"} & set(names)


def test_a_module_that_cannot_be_imported_says_nothing() -> None:
    assert module_prose("_no_such_module") == ""
    assert "_no_such_module" not in sys.modules
