"""What the trainer gets to see: everything that matters, nothing that would make it drop a chunk."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slm.core.errors import UserError
from slm.tokenizer.sample import CHUNK_CHARACTERS, Quota, cut, marked, not_empty, quotas, training_chunks, unmarked

RESERVED = "\u2581\u2585\0\U0010fffc\U0010fffd"


def sampled(texts: list[str], total_bytes: int, sample_bytes: int, *, marks: bool) -> list[str]:
    """The sample of texts that are all of one source."""
    wanted = {"": Quota(min(sample_bytes, total_bytes), total_bytes)}
    return list(training_chunks([("", text) for text in texts], wanted, marks=marks))


awkward = st.text(st.sampled_from(f"<|>0xaF \n\t{RESERVED}é"), max_size=200)


@given(st.one_of(st.text(), awkward))
@example("<|im_start|><0x41>▁\0")
def test_chunks_hold_the_whole_text_but_reserved_characters(text: str) -> None:
    assert "".join(cut(text)) == re.sub(f"[{RESERVED}]", "", text)


@given(st.one_of(st.text(), awkward), st.integers(1, 4), st.sampled_from(["\n", " ", "z"]))
def test_long_text_is_cut_short_and_whole(text: str, repeats: int, separator: str) -> None:
    long = separator.join([text] * repeats * 100) + "x" * (CHUNK_CHARACTERS + 1)
    chunks = list(cut(long))
    assert max(map(len, chunks)) <= CHUNK_CHARACTERS
    assert "".join(chunks) == re.sub(f"[{RESERVED}]", "", long)


@given(awkward)
@example("<|bos|> |> <| <0x0A> <0xff>")
def test_no_chunk_holds_an_end_of_a_control_name_or_a_byte_name(text: str) -> None:
    for chunk in cut(text.replace("\0", "")):
        assert "<|" not in chunk
        assert "|>" not in chunk
        assert not re.search("<0x[0-9A-Fa-f]{2}|0x[0-9A-Fa-f]{2}>(?<=<.....)", chunk)


def test_chunks_end_before_a_line_end() -> None:
    lines = "".join(f"line {number}\n" for number in range(2000))
    chunks = list(cut(lines))
    assert len(chunks) > 3
    assert all(chunk.startswith("\n") for chunk in chunks[1:])


def test_only_indentation_and_tabs_are_marked() -> None:
    space, tab = "\U0010fffd", "\U0010fffc"
    assert marked(" a  b\n  c\td \n\t e") == f" a  b\n{space}{space}c{tab}d \n{tab}{space}e"
    assert unmarked(f"\n{space}{space}{tab}x") == "\n▁▁\tx"


def test_whole_corpus_is_taken_if_it_fits() -> None:
    texts = [f"text {number} " * 50 for number in range(100)]
    total = sum(map(len, texts))
    assert sampled(texts, total, total, marks=False) == texts


def test_sample_is_bounded_spread_and_the_same_each_time() -> None:
    texts = [f"{number} {'word ' * 20}" for number in range(3000)]
    total = sum(map(len, texts))
    for part in range(2, 8):
        sample = sampled(texts, total, total // part, marks=True)
        assert sample == sampled(texts, total, total // part, marks=True)
        assert 0.9 * total / part < sum(map(len, sample)) <= total // part
        numbers = [int(chunk.split()[0]) for chunk in sample]
        tenths = [sum(start <= number < start + 300 for number in numbers) for start in range(0, 3000, 300)]
        assert min(tenths) > 150 / part


def test_copies_of_a_text_are_sampled_independently() -> None:
    assert 20 < len(sampled(["the same"] * 100, 800, 400, marks=True)) <= 50


def test_marks_do_not_count_against_the_sample() -> None:
    texts = ["\n" + " " * 40 + f"{number}" for number in range(500)]
    total = sum(map(len, texts))
    assert len(sampled(texts, total, total, marks=True)) == 500


def test_empty_train_split_is_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"runs/r/corpus holds no text .* add documents to corpus\.sources"):
        list(not_empty(sampled(["", "\0"], 0, 100, marks=True), "runs/r/corpus"))


def test_each_source_gives_its_share_of_the_sample() -> None:
    texts = [(name, f"{name} {number} {'word ' * 30}") for number in range(4000) for name in ("books", "code", "books")]
    held = {name: sum(len(text) for source, text in texts if source == name) for name in ("books", "code")}
    wanted = quotas(held, {"books": 1, "code": 3}, 200_000)
    sample = list(training_chunks(texts, wanted, marks=False))
    taken = {name: sum(len(chunk) for chunk in sample if chunk.startswith(name)) for name in held}
    assert 45_000 < taken["books"] <= 50_000
    assert 135_000 < taken["code"] <= 150_000
    places = [int(chunk.split()[1]) for chunk in sample]
    assert (
        min(sum(start <= place < start + 400 for place in places) for start in range(0, 4000, 400)) > len(sample) / 15
    )


@given(
    st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(0, 10**6), st.floats(0.01, 100)), min_size=1),
    st.integers(1, 2 * 10**6),
)
def test_a_source_without_enough_text_is_taken_whole_and_the_others_fill_the_rest(
    sources: dict[str, tuple[int, float]], sample_bytes: int
) -> None:
    held = {name: total for name, (total, _) in sources.items()}
    weights = {name: weight for name, (_, weight) in sources.items()}
    wanted = quotas(held, weights, sample_bytes)
    taken = {name: quota.take_bytes for name, quota in wanted.items()}
    assert all(taken[name] <= held[name] for name in held)
    assert min(sample_bytes, sum(held.values())) - len(held) <= sum(taken.values()) <= sample_bytes
    cut_short = [name for name in held if taken[name] < held[name]]
    for one in cut_short:
        for name in held:  # nobody got more for its weight than one that was cut short
            assert taken[name] / weights[name] <= (taken[one] + 1) / weights[one] * (1 + 1e-9)
