"""Streaming must not depend on how the bytes were cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from slm.serve.stream import StopStream, Utf8Stream


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def stream_bytes(parts: list[bytes]) -> list[str]:
    stream = Utf8Stream()
    return [*(stream.push(part) for part in parts), stream.finish()]


def stream_stops(parts: list[str], stops: list[str]) -> tuple[list[str], bool]:
    stream = StopStream(stops)
    shown = [stream.push(part) for part in parts]
    return [*shown, stream.finish()], stream.stopped


bytes_like_text = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(lambda text: text.encode("utf-8")),
    st.lists(st.sampled_from([b"\xf0", b"\x9f", b"\x98", b"\x80", b"\xe2\x82", b"\xac", b"a", b"\xc3", b"\xff"])).map(
        b"".join
    ),
)


@given(bytes_like_text, st.lists(st.integers(0, 100), max_size=12))
def test_pieces_joined_equal_the_whole_decoded_at_once(data: bytes, cuts: list[int]) -> None:
    assert "".join(stream_bytes(pieces(data, cuts))) == data.decode("utf-8", errors="replace")


@given(st.text(max_size=30))
def test_no_character_is_torn_when_bytes_come_singly(text: str) -> None:
    data = text.encode("utf-8")
    shown = stream_bytes([data[i : i + 1] for i in range(len(data))])
    assert "".join(shown) == text
    assert all(len(piece) <= 1 for piece in shown)


def test_a_character_appears_with_its_last_byte() -> None:
    assert stream_bytes([b"\xf0\x9f", b"\x98", b"\x80!"]) == ["", "", "😀!", ""]


def test_an_invalid_byte_appears_as_soon_as_it_is_known_to_be_invalid() -> None:
    assert stream_bytes([b"\xe2\x82", b"a", b"\xff", b"b"]) == ["", "�a", "�", "b", ""]


def test_an_unfinished_character_at_the_end_is_not_lost() -> None:
    assert stream_bytes([b"x\xe2\x82"]) == ["x", "�"]


small_text = st.text(alphabet="abc\n", max_size=30)
small_stops = st.lists(st.text(alphabet="abc\n", min_size=1, max_size=5), max_size=3)


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """The rule, by trying every prefix: the first complete stop wins, then the longest."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(small_text, small_stops, st.lists(st.integers(0, 30), max_size=8))
def test_what_is_shown_before_a_stop_does_not_depend_on_the_cuts(text: str, stops: list[str], cuts: list[int]) -> None:
    parts = [part.decode() for part in pieces(text.encode(), cuts)]
    shown, stopped = stream_stops(parts, stops)
    assert ("".join(shown), stopped) == expected(text, stops)


@given(small_text, small_stops)
def test_text_is_held_back_only_while_it_may_begin_a_stop(text: str, stops: list[str]) -> None:
    stream = StopStream(stops)
    shown = ""
    for index, character in enumerate(text):
        shown += stream.push(character)
        if stream.stopped:
            break
        held = text[len(shown) : index + 1]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_a_stop_that_straddles_tokens_is_not_shown() -> None:
    assert stream_stops(["one <", "|en", "d|> two"], ["<|end|>"]) == (["one ", "", "", ""], True)


def test_the_start_of_a_stop_that_does_not_come_is_shown_late_but_whole() -> None:
    assert stream_stops(["one <", "|en", "emy"], ["<|end|>"]) == (["one ", "", "<|enemy", ""], False)


def test_nothing_follows_a_stop() -> None:
    stream = StopStream(["."])
    assert stream.push("a.b") == "a"
    assert stream.push("c") == ""
    assert stream.finish() == ""
