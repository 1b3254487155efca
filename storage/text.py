"""Text that came from outside, in a form that is safe to store and to show."""


def one_line(text: str, max_length: int, *, ellipsis: str = "…") -> str:
    """Return text in one line of at most `longest` characters, with `end` where it was cut.

    Control characters, line breaks and marks that change the direction of writing become
    spaces; several spaces become one.
    """
    head = text[: 4 * max_length]
    if not head.isprintable():
        head = "".join(letter if letter.isprintable() else " " for letter in head)
    line = " ".join(head.split())
    return line if len(line) <= max_length else line[: max_length - len(ellipsis)] + ellipsis
