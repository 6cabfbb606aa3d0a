"""What is known of a run or a file, gathered for its report. Whatever is missing leaves a sentence in its place."""

from metaq.reporting.gathering import gather, write

__all__ = ["gather", "write"]
