"""Pages that show what a model has learned: one HTML file each, for `jobs/report.py`."""
