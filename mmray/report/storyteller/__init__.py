"""The page of a storyteller."""
