"""Texts of unknown origin, made safe to print."""

import unicodedata

_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def visible(text: str, limit: int | None = None) -> str:
    r"""The text on one line with every control, direction and invisible character written out, cut
    to `limit` characters.

    >>> visible("a\x1b[31mred\nend")
    'a\\x1b[31mred\\nend'
    >>> visible("long text", limit=5)
    'long…'
    """
    cut = text if limit is None or len(text) <= limit else f"{text[: limit - 1]}…"
    return "".join(
        (
            letter.encode("unicode_escape").decode("ascii")
            if unicodedata.category(letter) in _UNSAFE
            else letter
        )
        for letter in cut
    )
