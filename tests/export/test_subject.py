from collections.abc import Callable
from typing import get_args

import pytest

from slm.export import EXPORTERS
from slm.export.config import Format
from slm.export.stage import _exporter
from slm.export.subject import Subject


def test_every_engine_stops_at_the_end_of_a_text_and_of_a_turn(subject_of: Callable[..., Subject]) -> None:
    subject = subject_of()
    assert subject.end_ids == {subject.tokenizer.eos_id, subject.turn_end_id}
    assert subject.tokenizer.pieces()[subject.turn_end_id][0] == "<|im_end|>"


@pytest.mark.parametrize("name", get_args(Format))
def test_every_format_has_a_module_with_the_face_of_an_exporter(name: str) -> None:
    exporter = _exporter(name)  # type: ignore[arg-type]
    for verb in ("refuse_unsupported", "write", "engine"):
        assert callable(getattr(exporter, verb))
    assert list(EXPORTERS) == list(get_args(Format))
