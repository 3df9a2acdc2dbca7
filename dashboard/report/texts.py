"""Words of any length, cut to what a page can hold."""

MOST_LETTERS = 2000


def cut(words: str, most: int = MOST_LETTERS) -> str:
    """Return a text of at most ``most`` letters; what is left out at its end is told."""
    return words if len(words) <= most else f"{words[:most]} … ({len(words) - most:,} letters more)"
