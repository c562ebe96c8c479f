"""The page of a SoundNet."""
