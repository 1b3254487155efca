"""A small model for the demo, the tests and first steps on a CPU, and the demo's clips."""

from pathlib import Path

CLIPS_FOLDER = Path(__file__).parent / "clips"
FIRE_CLIP, QUIET_CLIP = "fire.mp4", "quiet.mp4"
"""A street in which a fire breaks out after 40 s, and the same street without a fire."""
