"""Render the two clips that the demo's camera plays: `python -m analyzer.nano.workshop.clips`."""

from pathlib import Path

from analyzer.nano import CLIPS_FOLDER, FIRE_CLIP, QUIET_CLIP
from analyzer.nano.workshop.scenes import demo_scene
from analyzer.nano.workshop.video import SMALL, write_video

SECONDS, FPS, WIDTH, HEIGHT = 90, 5, 384, 256


def render_clips(folder: Path = CLIPS_FOLDER) -> None:
    """Write both clips, overwriting those in the folder."""
    folder.mkdir(exist_ok=True)
    for name in (FIRE_CLIP, QUIET_CLIP):
        write_video(
            demo_scene(SECONDS, anomaly=name == FIRE_CLIP),
            folder / name,
            seconds=SECONDS,
            fps=FPS,
            width=WIDTH,
            height=HEIGHT,
            options=SMALL,
        )


if __name__ == "__main__":
    render_clips()
