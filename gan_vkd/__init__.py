"""Data-limited image generation with knowledge distilled through an orthogonal projection."""

__version__ = "0.1.0"
