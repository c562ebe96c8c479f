"""The embedded toy world: one scene seen as a picture, tags, captions, and video with sound."""
