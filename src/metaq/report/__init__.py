"""Pictures of runs and files."""
