"""Training that all tasks share: loop, loader, checkpoints, tracking, and Ray Train."""
