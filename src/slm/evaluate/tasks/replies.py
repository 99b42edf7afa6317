"""Whether answers keep to the chat template: the last questions of held-out conversations, answered greedily.

In: held-out documents; those that hold a conversation are asked up to their last answer. Out: two rows for each:
`turn_ended`, the answer ended by the token that ends a turn, and `format_kept`, it did and is neither empty nor holds a
marker, as a token or spelt out. What the answers are worth is another question. A conversation that leaves no room for
the longest answer is left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from slm.core.errors import UserError
from slm.corpus import Document
from slm.corpus.conversations import messages_of
from slm.evaluate.generation import Prompt, generate
from slm.evaluate.scorer import TURN_END, Scorer
from slm.evaluate.tasks.items_table import Result
from slm.evaluate.tasks.outcome import Outcome
from slm.tokenizer.training import CONTROL_TOKENS

REPLIES = "replies"
"""What they are called beside tasks."""


def replies(scorer: Scorer, documents: Iterable[Document], max_tokens: int) -> Outcome:
    """Ask and judge; refused where no document holds a conversation."""
    outcome, asked = Outcome(), list[tuple[Document, str, Prompt]]()
    for document in documents:
        messages = [message.row() for message in messages_of(document)[:-1]]
        if not messages:
            continue
        ids = np.array(scorer.tokenizer.render_chat(messages), dtype=np.int32)
        if len(ids) + max_tokens > scorer.context_tokens:
            outcome.skip("longer than the context")
        else:
            asked.append((document, messages[-1]["content"], Prompt(ids, max_tokens)))
    if not asked:
        raise UserError(
            "evaluate.replies asks held-out conversations, but the corpus holds none that fits; set it to 0, or lower "
            f"evaluate.reply_tokens ({max_tokens:,})"
        )
    markers = frozenset(range(len(CONTROL_TOKENS)))
    answers = generate(
        scorer.model, scorer.tokenizer, [prompt for *_, prompt in asked], ends=markers,
        batch_tokens=scorer.batch_tokens, precision=scorer.precision, kv_cache=scorer.kv_cache,
    )  # fmt: skip
    for answer in sorted((one for batch in answers for one in batch), key=lambda one: one.number):
        document, question, prompt = asked[answer.number]
        ended = answer.end == CONTROL_TOKENS.index(TURN_END)
        kept = ended and bool(answer.text.strip()) and not any(marker in answer.text for marker in CONTROL_TOKENS)
        for metric, value in (("turn_ended", ended), ("format_kept", kept)):
            outcome.results.append(
                Result(
                    REPLIES, document.id, metric, value, question, len(prompt.ids), answer=answer.text,
                    source=document.source,
                )
            )  # fmt: skip
    return outcome
