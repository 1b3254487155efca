"""Make text from outside safe to store and to show."""


def one_line(text: str, max_length: int, *, ellipsis: str = "…") -> str:
    """Return text in one line of at most `max_length` characters, `ellipsis` at a cut.

    Control characters, line breaks and direction marks become spaces; several become one.
    """
    head = text[: 4 * max_length]
    if not head.isprintable():
        head = "".join(letter if letter.isprintable() else " " for letter in head)
    line = " ".join(head.split())
    return line if len(line) <= max_length else line[: max_length - len(ellipsis)] + ellipsis
