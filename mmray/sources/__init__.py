"""Where media come from: each on-disk layout becomes one list of items."""

from mmray.sources.items import Segment, SoundItem, VideoItem, split_of
from mmray.sources.registry import media_files, sounds, videos

__all__ = ["Segment", "SoundItem", "VideoItem", "media_files", "sounds", "split_of", "videos"]
