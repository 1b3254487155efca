"""The words around the stills: the chat frame, the timestamps, the question.

The frame is Qwen's (conversation `qwen_1_5` of the reference); the stills stand between
`BEFORE` and the question.
"""

BEFORE = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
YES, NO = "Yes", "No"
END = "<|im_end|>"


def timestamp(seconds: float) -> str:
    """Return the text in front of a group whose first still is at `seconds`."""
    return f"Time {seconds:.1f}s:"


def question(ask: str) -> str:
    """Return the text behind the stills that asks for a yes or a no."""
    return f"\n{ask}{END}\n<|im_start|>assistant\n"
