"""The page of a captioner."""
