"""Files into arrays: pictures, frames of videos, sound. Every failure is a `MediaError`."""
