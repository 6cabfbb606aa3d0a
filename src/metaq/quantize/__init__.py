"""From weights to bucket indices."""
