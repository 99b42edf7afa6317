"""Personal data in a text: what the corpus's own cleaning would have replaced or counted there."""

from __future__ import annotations

from slm.corpus.cleaning.pii import count_phones, without_emails, without_ips


def personal(text: str) -> dict[str, int]:
    """E-mail addresses, public IP addresses and telephone numbers in a text; addresses that nobody has do not count."""
    return {"emails": without_emails(text)[1], "ips": without_ips(text)[1], "phones": count_phones(text)}
