"""A teacher's answer counts where it is the known one, whatever it looks like."""

from __future__ import annotations

import pytest

from slm.evaluate.tasks.layouts import Item
from slm.rationales.check import label_of, question_of, rationale_of

NUMBER = Item("Question: How many legs have two spiders?\nAnswer:", answers=(" 8 and 8.\n#### 1,600", "1600"))
CHOICE = Item("Question: What has legs?\nAnswer:", (" a snake", " The spider", " no: one"), 1)
SIGNS = Item("Question: Which?\nAnswer:", ("1.5 m", "+1", "1/2", "10%", "<", "5"), 1)


def test_the_question_stands_alone_with_its_choices_by_letter():
    assert question_of(NUMBER) == "How many legs have two spiders?"
    assert question_of(CHOICE) == "What has legs?\nA) a snake\nB) The spider\nC) no: one"
    assert (label_of(NUMBER), label_of(CHOICE)) == ("1600", "The spider")


@pytest.mark.parametrize(
    ("item", "answer", "rationale", "reason"),
    [
        (NUMBER, "800 and 800. \n#### 1600", "800 and 800.", ""),
        (NUMBER, "So it is.\n#### $1,600.00 legs", "So it is.", ""),
        (NUMBER, "#### 2 is wrong, hence #### 1600", "#### 2 is wrong, hence", ""),
        (NUMBER, "800 and 800.\n#### 1601", "", "wrong answer"),
        (NUMBER, "800 and 800 are 1600.\n#### many", "", "wrong answer"),
        (NUMBER, "800 and 800 are 1600.", "", "no #### with an answer at the end"),
        (NUMBER, "800 and 800 are 1600.\n####\n", "", "no #### with an answer at the end"),
        (NUMBER, "\n#### 1600", "", "no reason given"),
        (NUMBER, " ", "", "no answer"),
        *(
            (NUMBER, f"So.\n#### {said}", "So.", "")
            for said in (
                "1600 legs in all.",
                "**1600**",
                "\\boxed{1600}",
                "1600\n\nI hope that helps you 24 hours a day.",
                "€1600",
            )
        ),
        *(
            (NUMBER, f"So.\n#### {said}", "", "wrong answer")
            for said in (
                "1600/7",
                "1600 - 5 = 1595",
                ".1600",
                "1600:30",
                "1600-7",
                "1600 million",
                "1600 000",
                "x 1600",
            )
        ),
        (CHOICE, "Eight.\n#### the spider.", "Eight.", ""),
        (CHOICE, "Eight.\n#### B", "Eight.", ""),
        (CHOICE, "Eight.\n#### (B)", "Eight.", ""),
        (CHOICE, "Eight.\n#### B) The spider", "Eight.", ""),
        (CHOICE, "Eight.\n#### A", "", "wrong answer"),
        (CHOICE, "Eight.\n#### a snake", "", "wrong answer"),
        (CHOICE, "Eight.\n#### it has B legs", "", "wrong answer"),
        *((CHOICE, f"Eight.\n#### {said}", "Eight.", "") for said in ("B. The spider", "B: spider", "b", "\\boxed{B}")),
        (CHOICE, "Eight.\n#### B. A snake", "", "wrong answer"),
        (CHOICE, "Eight.\n#### E", "", "wrong answer"),
        *((SIGNS, f"So.\n#### {said}", "", "wrong answer") for said in ("-1", "1", "15 m", "12", "10", ">", ".5")),
        (SIGNS, "So.\n#### +1", "So.", ""),
        (NUMBER, "<think>\n\n</think>\n\n800 and 800.\n#### 1600", "800 and 800.", ""),
        (NUMBER, "Is it 2? #### 2</think>800 and 800.\n#### 1600", "800 and 800.", ""),
        (NUMBER, "<think>It may be\n#### 1600", "", "a thought without an end"),
    ],
)
def test_only_a_right_answer_gives_its_rationale(item, answer, rationale, reason):
    assert rationale_of(item, answer) == (rationale, reason)
