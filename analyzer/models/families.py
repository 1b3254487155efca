"""The model families that longwatch knows."""

from analyzer.models.family import ModelFamily
from analyzer.models.videoxl2.config import VideoXL2Config
from analyzer.models.videoxl2.family import VideoXL2Family

FAMILY: ModelFamily[VideoXL2Config] = VideoXL2Family()
"""The only one; with a second, the fields of a config.json decide."""
