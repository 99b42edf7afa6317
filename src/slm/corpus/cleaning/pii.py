"""Step `pii`: addresses replaced by ones that nobody has, telephone numbers counted.

What is an address follows datatrove's patterns. The n-th address of a document becomes the n-th replacement, round and
round, so the result depends on the document alone. Replacements are left as they are where they occur already.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from slm.corpus.cleaning.config import PiiStep
from slm.corpus.cleaning.views import Notes, TextViews

EMAILS = ("email@example.com", "firstname.lastname@example.org")
IPS = ("192.0.2.1", "198.51.100.1", "203.0.113.1", "192.0.2.2", "198.51.100.2", "203.0.113.2")

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)"
EMAIL = re.compile(
    rf"\b{_ATOM}(?:\.{_ATOM})*@(?:(?:{_LABEL}\.)+{_LABEL}|\[(?:{_OCTET}\.){{3}}(?:{_OCTET}|[A-Za-z0-9-]*[A-Za-z0-9]:)\])"
)
LOCAL_PART = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+/=?^_`{|}~-.")
MAX_LOCAL_PART = 256
"""Characters before an @ that are looked at; RFC 5321 allows 64, and base64 would go on for megabytes."""
IP = re.compile(rf"(?:{_OCTET}\.){{3}}{_OCTET}")
PERHAPS_IP = re.compile(r"\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")
PHONE = re.compile(
    r"(?<![\w.,/+-])"
    r"(?:\+[1-9][0-9]{0,2}(?:[ .-]?\(?[0-9]{1,4}\)?){2,5}"  # international (ITU-T E.123): + and 8 to 15 digits
    r"|(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4})"  # North America
    r"(?![\w/]|[.,-][0-9])"
)
PERHAPS_PHONE = re.compile(r"\+[1-9]|[0-9][ .-][0-9]{4}")
PHONE_DIGITS = range(8, 16)


def build(config: PiiStep) -> Callable[[TextViews, Notes], str]:
    """The step: a text with its addresses replaced; never drops."""

    def clean(views: TextViews, notes: Notes) -> str:
        text = views.text
        if config.emails and "@" in text:
            text, found = without_emails(text)
            notes.counts["pii/emails"] += found
        if config.ips and PERHAPS_IP.search(text):
            text, found = without_ips(text)
            notes.counts["pii/public IPs"] += found
        if config.phones:
            found = count_phones(text)
            notes.counts["pii/phones"] += found
            if found:
                notes.metadata["phones"] = str(found)
        return text

    return clean


def without_emails(text: str) -> tuple[str, int]:
    """The text with its e-mail addresses replaced, and how many were."""
    parts: list[str] = []
    done = replaced = 0
    at = text.find("@")
    while at >= 0:
        start = at
        while start > max(done, at - MAX_LOCAL_PART) and text[start - 1] in LOCAL_PART:
            start -= 1
        match = next((found for place in range(start, at) if (found := EMAIL.match(text, place))), None)
        if match:
            if match.group() not in EMAILS:
                parts += [text[done : match.start()], EMAILS[replaced % len(EMAILS)]]
                replaced += 1
            else:
                parts.append(text[done : match.end()])
            done = match.end()
        at = text.find("@", max(at + 1, done))
    return ("".join([*parts, text[done:]]) if replaced else text), replaced


def without_ips(text: str) -> tuple[str, int]:
    """The text with its public IPv4 addresses replaced, and how many were.

    Digits on both sides of a replacement can make another address with it, so this goes on until none is public.
    """
    replaced = 0

    def other(match: re.Match[str]) -> str:
        nonlocal replaced
        if not is_public(match.group()):
            return match.group()
        replaced += 1
        return IPS[(replaced - 1) % len(IPS)]

    while True:
        before = replaced
        text = IP.sub(other, text)
        if replaced == before:
            return text, replaced


def is_public(address: str) -> bool:
    """Whether an IPv4 address can be reached from everywhere; one with leading zeros is no address."""
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def count_phones(text: str) -> int:
    """How many telephone numbers the text has: international with a plus sign, or as North America writes them."""
    if not PERHAPS_PHONE.search(text):
        return 0
    return sum(sum(map(str.isdigit, match.group())) in PHONE_DIGITS for match in PHONE.finditer(text))
