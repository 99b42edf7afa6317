"""Checks as sentences and as a refusal."""

from __future__ import annotations

import pytest

from slm.core.errors import UserError
from slm.release.check import failed, held, require, show


def test_every_failed_check_is_a_sentence_of_its_own(capsys):
    checks = [held("a", "fine"), failed("b", "broken", "mend it"), failed("c", "gone", "")]
    with pytest.raises(UserError) as caught:
        require("release", checks)
    assert str(caught.value).splitlines() == ["b: broken; mend it", "c: gone"]
    assert "release: 2 of 3 checks failed" in capsys.readouterr().out
    require("release", checks[:1])
    show("Gate", checks)
    assert capsys.readouterr().out.count("FAILED") == 2
