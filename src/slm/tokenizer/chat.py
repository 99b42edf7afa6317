"""Chat messages to ids, with markers that only the template can write.

`TEMPLATE` is ChatML in Jinja, rendered by the sandbox that transformers uses, with its settings and
helpers, so that the text is the same there. Hugging Face and llama.cpp's server tokenize the rendered
string and would take a marker typed by a user for a real one. Here a sign is put into every control name
inside a message before rendering and taken out again before encoding, so that what a person types stays
text, to the letter. For the others the template itself puts a space into such a name: every conversation
that spells none has the same ids everywhere, and one that does ends no turn anywhere.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slm.core.errors import UserError
from slm.tokenizer.training import CONTROL_TOKENS

_HARMLESS = "".join(f" | replace('{name}', '{name[:-2]} |>')" for name in CONTROL_TOKENS)
TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    f"{{{{ message['content']{_HARMLESS} }}}}"
    "{{ '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

Messages = Sequence[Mapping[str, Any]]


def render_text(template: str, messages: Messages, control: Sequence[str], *, add_generation_prompt: bool) -> str:
    """The template's text, as transformers would render it. `control` holds the control tokens by id."""
    _check(messages)
    unknown, bos, eos, pad, *_ = control
    text: str = _compiled(template).render(
        messages=messages,
        add_generation_prompt=add_generation_prompt,
        bos_token=bos,
        eos_token=eos,
        unk_token=unknown,
        pad_token=pad,
    )
    return text


def render_ids(
    template: str,
    messages: Messages,
    control: Sequence[str],
    encode: Callable[[str], list[int]],
    *,
    add_generation_prompt: bool,
) -> list[int]:
    """The template's ids: control tokens where the template has them, plain text everywhere else."""
    sign, *_ = _unused_signs(messages)
    name = _any_of(control)
    shielded = _shielded(messages, name, sign)
    text = render_text(template, shielded, control, add_generation_prompt=add_generation_prompt)
    ids: list[int] = []
    for index, part in enumerate(name.split(text)):
        ids += [control.index(part)] if index % 2 else encode(part.replace(sign, ""))
    return ids


def render_learned(
    template: str,
    messages: Messages,
    control: Sequence[str],
    encode: Callable[[str], list[int]],
    token_bytes: Callable[[int], bytes],
) -> tuple[list[int], list[bool]]:
    """The ids of `render_ids` without a generation prompt, and for each whether the assistant has to say it.

    That is what the assistant's messages hold, and the control token that ends the turn; of a message with `weight` 0
    nothing. A token that begins before the message does, since its first characters melt with what the template writes
    before it, is none: at generation the prompt ends there.
    """
    sign, begin, end = _unused_signs(messages)
    name = _any_of(control)
    shielded = _shielded(messages, name, sign)
    marked = [
        {**message, "content": begin + message["content"] + end} if _is_learned(message) else message
        for message in shielded
    ]
    text = render_text(template, marked, control, add_generation_prompt=False)
    plain = render_text(template, shielded, control, add_generation_prompt=False)
    if re.sub(f"[{begin}{end}]", "", text) != plain:
        raise UserError(
            "the chat template changes what the messages say, so nobody can tell which tokens are the assistant's; "
            "take a template that writes message['content'] as it is"
        )
    ids: list[int] = []
    learned: list[bool] = []
    speaking, ending = False, False
    for index, part in enumerate(name.split(text)):
        if index % 2:
            ids.append(control.index(part))
            learned.append(ending)
            ending = False
            continue
        spoken, runs = b"", []
        for run in re.split(f"([{begin}{end}])", part.replace(sign, "")):
            if run in (begin, end):
                speaking, ending = run == begin, run == end
                continue
            content = run.encode("utf-8", "surrogateescape")
            ending = ending and not content.strip()
            runs.append((len(spoken), len(spoken) + len(content), speaking))
            spoken += content
        said = encode(spoken.decode("utf-8", "surrogateescape"))
        place = 0
        for token in said:
            last = place + len(token_bytes(token))
            learned.append(any(first <= place and last <= stop and answer for first, stop, answer in runs))
            place = last
        ids += said
    return ids, learned


def _is_learned(message: Mapping[str, Any]) -> bool:
    is_answer = message.get("role") == "assistant" and isinstance(message.get("content"), str)
    return is_answer and message.get("weight") != 0


def _any_of(control: Sequence[str]) -> re.Pattern[str]:
    return re.compile("(" + "|".join(map(re.escape, control)) + ")")


def _shielded(messages: Messages, name: re.Pattern[str], sign: str) -> list[dict[str, Any]]:
    """The messages with `sign` in every control name that they spell."""

    def shield(value: Any) -> Any:
        return name.sub(lambda found: found[0][0] + sign + found[0][1:], value) if isinstance(value, str) else value

    return [{key: shield(value) for key, value in message.items()} for message in messages]


def _unused_signs(messages: Messages) -> list[str]:
    """Three private characters that no message holds."""
    used = {character for message in messages for value in message.values() for character in str(value)}
    return list(itertools.islice((sign for sign in map(chr, range(0xF0000, 0xFFFFE)) if sign not in used), 3))


def _check(messages: Messages) -> None:
    for index, message in enumerate(messages):
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise UserError(
                    f"messages[{index}].{key} must be text, found {message.get(key)!r}; "
                    'a message is {"role": "user", "content": "..."}'
                )


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise UserError(f"the chat template refuses these messages: {message}")

    def as_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = as_json
    environment.globals["raise_exception"] = refuse
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise UserError(f"chat_template.jinja is not a Jinja template ({error}); correct it") from error
