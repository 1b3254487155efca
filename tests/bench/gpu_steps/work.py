"""Multiplications and additions that a pass takes, counted from the model's shapes."""

from dataclasses import dataclass

from analyzer.models.videoxl2.config import VideoXL2Config
from analyzer.models.videoxl2.model import VideoXL2
from bench import flops

STILLS = 16
BEHIND, FURTHER = 4, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Operations: of a still seen, of a window read and of a question, behind dense windows."""

    still: float
    window: float
    window_growth: float
    question: float
    question_growth: float

    def step(self, lanes: int, questions: int) -> float:
        """Return the operations of a window of each lane, with a full memory of 64 s."""
        return lanes * (STILLS * self.still + self.window + questions * self.question)

    def stream(self, windows: int) -> float:
        """Return the operations of a stream from its first window, held in full."""
        reading = sum(self.window + self.window_growth * (n - BEHIND) for n in range(windows))
        return windows * STILLS * self.still + reading


def work_of(config: VideoXL2Config) -> Work:
    """Count on the meta device."""
    model = flops.shapes_of(config)
    near, far = (_behind(model, windows) for windows in (BEHIND, FURTHER))
    apart = FURTHER - BEHIND
    return Work(
        still=flops.count_vision(model, STILLS) / STILLS,
        window=near[0],
        window_growth=(far[0] - near[0]) / apart,
        question=near[1],
        question_growth=(far[1] - near[1]) / apart,
    )


def _behind(model: VideoXL2, windows: int) -> tuple[int, int]:
    """Count a window and a question behind dense windows."""
    marks = [
        flops.video(model.config, at, at + STILLS) for at in range(0, windows * STILLS, STILLS)
    ]
    held = [flops.remembered(model, flops.text(flops.PREFIX))]
    cache = model.cache([*held, *(flops.remembered(model, each) for each in marks)])
    end = windows * STILLS
    return (
        flops.prefill(model, flops.video(model.config, end, end + STILLS), cache),
        flops.ask(model, cache),
    )
