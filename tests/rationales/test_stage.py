"""What a teacher says is kept, filtered, counted, gone on with, and read by a corpus as two tasks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import slm.corpus
from slm.core.artifact import Artifact, open_artifact
from slm.core.errors import DamagedError, UserError
from slm.core.lineage import lineage
from slm.corpus import SPLITS, read_documents
from slm.corpus.conversations import messages_of
from slm.rationales import run, stage
from slm.recipe import Recipe
from tests.chat_server import ChatServer, Failure, completion
from tests.rationales.conftest import ITEMS, solved
from tests.tiny_run import tiny_recipe

Asking = Callable[..., Recipe]


def rows(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in artifact.file(name).read_text().splitlines()]


def test_both_tasks_are_written_for_each_item(asking: Asking, server: ChatServer, capsys) -> None:
    made = run(asking(price_per_million_prompt=2.0, price_per_million_answer=10.0))
    labels, reasons = rows(made, "label.jsonl"), rows(made, "rationale.jsonl")
    assert [row["prompt"] for row in labels] == [f"[label] Question: {n} and {n * n}?\nAnswer:" for n in range(ITEMS)]
    assert [row["completion"] for row in labels] == [str(n + n * n) for n in range(ITEMS)]
    assert reasons[3] == {
        "id": f"{labels[3]['item']}/rationale", "item": labels[3]["item"],
        "prompt": "[rationale] Question: 3 and 9?\nAnswer:", "completion": "3 with 9 makes 12.",
    }  # fmt: skip
    assert server.asked[0]["messages"][0]["content"].startswith("0 and 0?\n\nThink in at most two short sentences.")
    assert len({request["seed"] for request in server.asked}) == ITEMS
    counts = made.counts
    asked, answered = (sum(len(text.split()) for text in texts) for texts in (
        [request["messages"][0]["content"] for request in server.asked], map(solved, server.asked),
    ))  # fmt: skip
    assert (counts["prompt_tokens"], counts["answer_tokens"]) == (asked, answered)
    assert counts["price"] == pytest.approx((2 * asked + 10 * answered) / 1e6, abs=1e-6)
    assert (counts["items"], counts["kept"], counts["answers"], counts["dropped"]) == (ITEMS, ITEMS, ITEMS, {})
    assert f"for 100.0 % of the items, {counts['rationale_tokens']['mean']:.1f} tokens" in capsys.readouterr().out


def test_what_is_wrong_long_or_said_before_is_dropped_and_asked_again(asking: Asking, server: ChatServer) -> None:
    right = "It is the sum.\n#### {}"
    server.script = [
        *[right.format(n + n * n) for n in (0, 1)],  # the second is a duplicate
        "Wrong.\n#### 1", "Sums are long.\n" * 40 + "#### 12", "", "no mark",
    ]  # fmt: skip
    made = run(asking(samples=2))
    assert made.counts["dropped"] == {
        "duplicate": 1, "no #### with an answer at the end": 1, "no answer": 1, "too long": 1, "wrong answer": 1,
    }  # fmt: skip
    assert made.counts["kept"] == ITEMS
    assert made.counts["answers"] == len(server.asked) == ITEMS + 5
    assert [row["reason"] for row in rows(made, "dropped.jsonl")] == [
        "duplicate", "wrong answer", "too long", "no answer", "no #### with an answer at the end",
    ]  # fmt: skip
    assert rows(made, "rationale.jsonl")[1]["completion"] == "1 with 1 makes 2."
    assert made.counts["rationale_tokens"]["longest"] <= 200


def test_a_server_that_stops_loses_nothing_and_the_same_command_goes_on(asking: Asking, server: ChatServer) -> None:
    server.script = [*["one\n#### 0"] * 3, *[Failure(status=503)] * 3]
    sentence = (
        r"rationales.server.url \(http://127.*\) gave 3 answers of this round's 12 and then none \(HTTPStatusError: "
        r".*503.*\); all answers so far are kept in .*answers.jsonl: start the server again and run the same command"
    )
    with pytest.raises(UserError, match=sentence):
        run(asking())
    asked = len(server.asked)
    made = run(asking())
    assert made.counts["answers"] == 3 + ITEMS - 1  # three of the first round were wrong but one, and asked again
    assert len(server.asked) - asked == made.counts["answers"] - 3


def test_other_bounds_on_what_is_kept_ask_nothing_again(asking: Asking, server: ChatServer) -> None:
    run(asking())
    again = run(asking(max_tokens=199).model_copy(update={"redo": True}))
    assert len(server.asked) == ITEMS
    assert again.counts["answers"] == ITEMS
    run(asking(max_tokens=199))
    assert len(server.asked) == ITEMS


def test_a_question_that_the_server_refuses_is_counted_and_others_go_on(asking: Asking, server: ChatServer) -> None:
    server.script = [Failure(status=400)]
    made = run(asking(samples=1))
    assert (made.counts["kept"], made.counts["dropped"]) == (ITEMS - 1, {"refused by the server": 1})
    assert "400" in rows(made, "dropped.jsonl")[0]["answer"]


def test_a_refused_question_is_not_asked_again(asking: Asking, server: ChatServer) -> None:
    server.script = [Failure(status=400)]
    made = run(asking(samples=3))
    assert made.counts["dropped"] == {"refused by the server": 1}
    assert len(server.asked) == ITEMS


def test_a_server_that_refuses_from_some_question_on_is_said_and_goes_on_later(
    asking: Asking, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "MOST_REFUSED_IN_A_ROW", 3)
    server.say = lambda request: (
        solved(request) if len(server.asked) < 3 else Failure(status=400, body=b"out of credit")
    )
    with pytest.raises(
        UserError, match=r"refused 3 questions one after the other \(.*out of credit\); all answers so far"
    ):
        run(asking(parallel=1))
    server.say, before = solved, len(server.asked)
    assert run(asking(parallel=1)).counts["kept"] == ITEMS
    assert len(server.asked) == before + ITEMS - 2


def test_an_answer_cut_within_its_number_is_not_kept(asking: Asking, server: ChatServer) -> None:
    def cut(request: dict[str, Any], answer: str) -> Failure:
        told = completion(request, answer)
        told["choices"][0]["finish_reason"] = "length"
        return Failure(body=json.dumps(told).encode())

    server.say = lambda request: cut(request, solved(request))
    with pytest.raises(UserError, match=rf"none of {ITEMS} answers gave a rationale \({ITEMS} cut at answer_tokens\)"):
        run(asking(samples=1))
    server.say = lambda request: cut(request, f"{solved(request)}\nAnd so")
    assert run(asking(samples=1, max_tokens=200, answer_tokens=99)).counts["kept"] == ITEMS


def test_a_server_elsewhere_is_the_same_teacher_and_tokens_may_be_unknown(
    asking: Asking, server: ChatServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def uncounted(request: dict[str, Any]) -> Failure:
        told = completion(request, str(solved(request)))
        del told["usage"]
        return Failure(body=json.dumps(told).encode())

    server.say = uncounted
    made = run(asking())
    assert made.counts["answer_tokens"] is None
    assert "what it took is unknown" in capsys.readouterr().out
    other = ChatServer(solved)
    try:
        again = run(asking(server={"url": other.url, "model": "adder"}))
    finally:
        other.close()
    assert again.fingerprint == made.fingerprint
    assert other.asked == []


def test_a_server_that_refuses_all_is_said_with_its_reason_and_asked_again(asking: Asking, server: ChatServer) -> None:
    server.say = lambda _: Failure(status=400, body=b'{"message": "max_tokens must be at most 7"}')
    sentence = rf"refused all {ITEMS} questions \(HTTPStatusError: .*400.*max_tokens must be at most 7.*; change how"
    with pytest.raises(UserError, match=sentence):
        run(asking())
    server.say = solved
    assert run(asking()).counts["kept"] == ITEMS


def test_half_of_a_character_ends_nothing(asking: Asking, server: ChatServer) -> None:
    broken = json.dumps(completion({"messages": []}, "It is \ud83d so.\n#### 0")).encode()
    server.script = [Failure(body=broken)]
    made = run(asking())
    assert rows(made, "rationale.jsonl")[0]["completion"] == "It is ? so."


def test_answers_come_several_at_once_and_to_the_same_files(asking: Asking, server: ChatServer) -> None:
    alone = run(asking("alone"))
    assert server.most_busy == 1
    server.say = lambda one: Failure(seconds=0.03, body=json.dumps(completion(one, solved(one))).encode())
    together = run(asking("together", parallel=4))
    assert 1 < server.most_busy <= 4
    for name in ("label.jsonl", "rationale.jsonl", "dropped.jsonl"):
        assert together.file(name).read_bytes() == alone.file(name).read_bytes()


KILLED = """
import os, signal, sys
from pathlib import Path
from slm.evaluate.journal import Journal
from slm.rationales import run
from slm.recipe import build_recipe
import json
real, left = Journal.put, [5]
def put(journal, answers):
    real(journal, answers)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
Journal.put = put
run(build_recipe(json.loads(Path(sys.argv[1]).read_text())))
"""


def test_a_killed_run_goes_on_and_makes_the_same_artifact(asking: Asking, server: ChatServer, tmp_path: Path) -> None:
    unbroken = run(asking("unbroken"))
    settings = tmp_path / "recipe.json"
    settings.write_text(json.dumps(asking("killed").resolved()))
    asked = len(server.asked)
    done = subprocess.run([sys.executable, "-c", KILLED, str(settings)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(server.asked) - asked in (5, 6)  # one may be asked while the fifth is kept
    made = run(asking("killed"))
    assert len(server.asked) - asked <= ITEMS + 1
    assert (made.fingerprint, made.counts) == (unbroken.fingerprint, unbroken.counts)


def test_nothing_kept_is_said_with_the_reasons(asking: Asking, server: ChatServer) -> None:
    server.say = lambda _: "I do not know."
    sentence = r"none of 24 answers gave a rationale \(24 no #### with an answer at the end\); look at .*, and change"
    with pytest.raises(UserError, match=sentence):
        run(asking(samples=2))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"items": []}, "rationales lacks items, the files of questions; name it, as recipe=distill_rationale_15m"),
        ({"server": {}}, "rationales lacks teacher or server.url, who answers them"),
        ({"server": {}, "teacher": "nowhere"}, r"rationales.teacher \(nowhere\) does not exist; correct the path"),
    ],
    ids=["no items", "nobody to ask", "no such teacher"],
)
def test_what_is_missing_is_said_before_anybody_is_asked(asking: Asking, server, settings, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        run(asking(**settings))
    assert server.asked == []


def corpus_of(recipe: Recipe, base: Path, evaluated: Path) -> Artifact:
    folder = Path(recipe.runs_dir) / recipe.run / "rationales"
    one = {"kind": "jsonl", "conversations": "prompt_completion", "id_column": "id", "split_column": "item",
           "licence": "MIT"}  # fmt: skip
    written = {"generator": "adder", "version": "1", "filter": "right answers"}
    sources = [
        {**one, "name": "label", "path": str(folder / "label.jsonl")},
        {**one, "name": "rationale", "path": str(folder / "rationale.jsonl"), "synthetic": written},
    ]
    checks = {"enabled": False, "against": [{"name": "test", "path": str(evaluated)}]}
    same = {"exact": False, "near": False}
    corpus = {"validation_fraction": 0.3, "decontamination": checks, "duplicates": same}
    made = slm.corpus.run(tiny_recipe(base, sources, "student", corpus={**corpus, "sources": sources}))
    assert made is not None
    return made


def test_a_corpus_reads_both_tasks_and_keeps_evaluations_out_of_what_the_teacher_wrote(
    asking: Asking, server: ChatServer, tmp_path: Path
) -> None:
    leaked = "the quick brown fox jumps over the lazy dog and then it sleeps all day"
    server.script = [f"As they say, {leaked}.\n#### 0"]
    recipe = asking()
    made = run(recipe)
    assert leaked in rows(made, "rationale.jsonl")[0]["completion"]
    evaluated = tmp_path / "test.txt"
    evaluated.write_text(leaked + "\n")
    corpus = corpus_of(recipe, tmp_path, evaluated)
    assert corpus.counts["skipped_by_source"] == {"rationale": {"contaminated": 1}}
    found = {split: list(read_documents(corpus, split)) for split in SPLITS}
    for task in ("label", "rationale"):
        of_task = [one for documents in found.values() for one in documents if one.source == task]
        assert len(of_task) == ITEMS - (task == "rationale")
        assert all(messages_of(one)[0].content.startswith(f"[{task}] Question: ") for one in of_task)
    sides = [{one.metadata["split_by"] for one in documents} for documents in found.values()]
    assert not sides[0] & sides[1]
    ancestors = {found.fingerprint for _, found in lineage(corpus.path) if isinstance(found, Artifact)}
    assert ancestors >= {corpus.fingerprint, made.fingerprint}
    with made.file("rationale.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(DamagedError, match=r"rationale.jsonl"):
        corpus_of(recipe, tmp_path, evaluated)


def test_a_teacher_here_is_a_parent_and_its_answers_are_checked_too(asking: Asking, trained: Recipe, server) -> None:
    recipe = asking(server={}, teacher=str(Path(trained.runs_dir) / trained.run), samples=1, answer_tokens=8)
    with pytest.raises(UserError, match="none of 12 answers gave a rationale"):
        run(recipe)
    assert server.asked == []
    journal = Path(recipe.runs_dir) / recipe.run / "rationales.answers" / "answers.jsonl"
    assert len(journal.read_text().splitlines()) == ITEMS


def test_an_artifact_names_the_checkpoint_that_taught(asking: Asking, trained: Recipe, monkeypatch) -> None:
    monkeypatch.setattr("slm.rationales.stage.rationale_of", lambda item, answer: (f"{item.prompt} {answer}", ""))
    place = Path(trained.runs_dir) / trained.run
    made = run(asking(server={}, teacher=str(place), samples=1, answer_tokens=8))
    taught = open_artifact(trained.artifact("train").path, "train")
    assert made.manifest["parents"]["teacher"]["fingerprint"] == taught.fingerprint
    assert made.counts["answer_tokens"] <= 8 * ITEMS
