"""The page of a joint model."""
