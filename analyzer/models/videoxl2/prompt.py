"""The texts around the stills: the chat frame, the timestamps, the questions.

The frame is Qwen's (conversation `qwen_1_5` of the reference); the stills are between `PREFIX`
and the question.
"""

import re
from datetime import timedelta

PREFIX = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
YES, NO = "Yes", "No"
END = "<|im_end|>"
_MINUTES = re.compile(r"\b(\d{1,3}):([0-5]\d)\b")


def timestamp(seconds: float) -> str:
    """Return the text in front of a group whose first still is at `seconds`."""
    return f"Time {seconds:.1f}s:"


def last_timestamp(latest: timedelta) -> str:
    """Return the longest timestamp before `latest`."""
    return timestamp(latest.total_seconds() - 0.1)


def question_text(ask: str) -> str:
    """Return the text after the stills that asks a question."""
    return f"\n{ask}{END}\n<|im_start|>assistant\n"


def times_in_seconds(ask: str) -> str:
    """Return a question with each mm:ss in seconds, the unit of the timestamps."""
    return _MINUTES.sub(lambda m: f"{int(m[1]) * 60 + int(m[2])} seconds", ask)
