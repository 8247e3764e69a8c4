"""Makes texts of unknown origin safe to print."""

import unicodedata

_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def visible(text: str, limit: int | None = None) -> str:
    r"""Returns the text on one line, cut to `limit` characters.

    Control, direction and invisible characters are escaped.

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
