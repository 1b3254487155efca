"""Text that came from outside, in a form that is safe to store and to show."""


def one_line(text: str, longest: int, *, end: str = "…") -> str:
    """Return text in one line of at most `longest` characters, with `end` where it was cut.

    Control characters, line breaks and marks that change the direction of writing become
    spaces; several spaces become one.
    """
    start = text[: 4 * longest]
    if not start.isprintable():
        start = "".join(letter if letter.isprintable() else " " for letter in start)
    line = " ".join(start.split())
    return line if len(line) <= longest else line[: longest - len(end)] + end
