"""Text that came from outside, made safe to print on a terminal."""


def printable(text: str) -> str:
    r"""`text` with everything escaped that could move the cursor, colour, reorder or hide what is printed; line breaks and tabs stay.

    >>> print(printable("a\x1b[31mb\r\u202ec"))
    a\x1b[31mb\r\u202ec
    """
    return "".join(character if character.isprintable() or character in "\n\t" else character.encode("unicode_escape").decode() for character in text)
