"""Who answers: a model here, or one behind a server.

In: questions, each with a seed. Out: their answers with the tokens they took, in whatever order they come. A checkpoint
with our tokenizer answers in batches, any other model here one question at a time; a server several at once. An answer
depends on question, settings and seed alone, as far as the server keeps to the seed. A question that does not fit the
model gives an empty answer; one that the server refuses, what it says to that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, NamedTuple

from slm.serve.openai_client import ChatClient, NoAnswerError, RefusedError, Reply

if TYPE_CHECKING:
    from slm.rationales.config import RationalesConfig
    from slm.recipe import Recipe
    from slm.serve.engine import Engine
    from slm.serve.torch_backend import TorchBackend

NOTHING = Reply("", 0, 0)
Replies = Iterator[list[tuple[int, Reply | RefusedError]]]
"""Some answers at a time, each with the number of its question."""


class Asked(NamedTuple):
    """One question of one round."""

    text: str
    seed: int

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.text}]


def server_answers(config: RationalesConfig, asked: Sequence[Asked]) -> Replies:
    """Ask a server, `parallel` questions at once; raises `NoAnswerError` after all that were answered are out."""
    server, failed = config.server, list[NoAnswerError]()
    client = ChatClient(
        server.url, server.model, server.key_variable, timeout_seconds=server.timeout_seconds, attempts=server.attempts
    )

    def ask(one: Asked) -> Reply | RefusedError:
        try:
            return client.ask(one.messages, config.temperature, max_tokens=config.answer_tokens, seed=one.seed)
        except RefusedError as error:
            return error

    waiting, busy = iter(enumerate(asked)), dict[Future[Reply | RefusedError], int]()
    with client, ThreadPoolExecutor(config.parallel) as pool:
        while True:
            while not failed and len(busy) < config.parallel and (following := next(waiting, None)):
                busy[pool.submit(ask, following[1])] = following[0]
            if not busy:
                break
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                number = busy.pop(future)
                try:
                    reply = future.result()
                except NoAnswerError as error:
                    failed.append(error)
                    continue
                yield [(number, reply)]
    if failed:
        raise failed[0]


def local_answers(engine: Engine, recipe: Recipe, asked: Sequence[Asked]) -> Replies:
    """Ask a model here: a conversation by its chat template, or plain text where it never saw one."""
    from slm.serve.torch_backend import TorchBackend
    from slm.serve.vocabulary import OwnVocabulary

    backend = engine.backend
    if isinstance(backend, TorchBackend) and isinstance(backend.vocabulary, OwnVocabulary):
        yield from _in_batches(engine, backend, recipe.rationales, asked)
        return
    config = recipe.rationales
    settings = recipe.serve.model_copy(
        update={"max_tokens": config.answer_tokens, "temperature": config.temperature, "top_k": 0, "top_p": 1.0}
    )
    for number, one in enumerate(asked):
        prompt = _prompt(engine, one)
        if len(engine.encode(prompt)) + config.answer_tokens > engine.context_tokens:
            yield [(number, NOTHING)]
            continue
        generation = engine.generate(prompt, settings.model_copy(update={"seed": one.seed}))
        text = "".join(generation)
        ended = generation.outcome
        cut = ended.finish_reason == "length"
        yield [(number, Reply(text, ended.prompt_tokens, ended.generated_tokens, cut))]


def _in_batches(engine: Engine, backend: TorchBackend, config: RationalesConfig, asked: Sequence[Asked]) -> Replies:
    import numpy as np

    from slm.evaluate.generation import Prompt, generate
    from slm.serve.vocabulary import OwnVocabulary

    assert isinstance(backend.vocabulary, OwnVocabulary)
    encoded = [np.array(engine.encode(_prompt(engine, one)), dtype=np.int32) for one in asked]
    fitting = [n for n, ids in enumerate(encoded) if len(ids) + config.answer_tokens <= engine.context_tokens]
    prompts = [
        Prompt(encoded[n], config.answer_tokens, temperature=config.temperature, seed=asked[n].seed) for n in fitting
    ]
    yield [(n, NOTHING) for n in sorted(set(range(len(asked))) - set(fitting))]
    ends, tokenizer = backend.vocabulary.end_ids, backend.vocabulary.tokenizer
    for batch in generate(backend.model, tokenizer, prompts, ends=ends, batch_tokens=config.batch_tokens):
        yield [
            (fitting[one.number], Reply(one.text, len(one.prompt.ids), len(one.ids), not ends & set(one.ids[-1:])))
            for one in batch
        ]


def _prompt(engine: Engine, one: Asked) -> str | list[dict[str, str]]:
    return one.text if engine.chat_tuned is False else one.messages
