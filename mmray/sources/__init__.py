"""Where media come from: each on-disk layout becomes one stream of items."""

from mmray.sources.items import ImageItem, Segment, SoundItem, VideoItem, split_of
from mmray.sources.registry import images, media_files, sounds, videos

__all__ = [
    "ImageItem",
    "Segment",
    "SoundItem",
    "VideoItem",
    "images",
    "media_files",
    "sounds",
    "split_of",
    "videos",
]
