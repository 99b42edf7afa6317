"""Chat messages to ids, with markers that only the template can write.

`TEMPLATE` is ChatML in Jinja, rendered by the sandbox that transformers uses, with its settings and
helpers, so that the text is the same there. In ids the two differ on purpose: Hugging Face tokenizes
the rendered string and would take a marker typed by a user for a real one; here a sign is put into
every control name inside a message before rendering and taken out again before encoding, so that
what a person types stays text.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slm.core.errors import UserError

TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
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
    sign = _unused_sign(messages)
    name = re.compile("(" + "|".join(map(re.escape, control)) + ")")
    shielded = [
        {key: _shield(value, name, sign) for key, value in message.items()} if isinstance(message, Mapping) else message
        for message in messages
    ]
    text = render_text(template, shielded, control, add_generation_prompt=add_generation_prompt)
    ids: list[int] = []
    for index, part in enumerate(name.split(text)):
        ids += [control.index(part)] if index % 2 else encode(part.replace(sign, ""))
    return ids


def _shield(value: Any, name: re.Pattern[str], sign: str) -> Any:
    if not isinstance(value, str):
        return value
    return name.sub(lambda found: found.group()[0] + sign + found.group()[1:], value)


def _unused_sign(messages: Messages) -> str:
    """A private character that no message holds."""
    used = {character for message in messages for value in message.values() for character in str(value)}
    return next(sign for sign in map(chr, range(0xF0000, 0xFFFFE)) if sign not in used)


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
