"""HTTP service over trained models: a FastAPI app in front of one Ray Serve deployment a model."""
