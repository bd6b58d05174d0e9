"""The HTTP face: health, metrics, scoring and the explorer page."""
