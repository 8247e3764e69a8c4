"""Formats numbers of bytes."""


def format_bytes(amount: int) -> str:
    """Formats bytes as rounded megabytes or gigabytes.

    >>> format_bytes(900), format_bytes(91_226_112), format_bytes(2_500_000_000)
    ('1 MB', '91 MB', '2.5 GB')
    """
    return f"{max(1, round(amount / 1e6)):,} MB" if amount < 1e9 else f"{amount / 1e9:,.1f} GB"
