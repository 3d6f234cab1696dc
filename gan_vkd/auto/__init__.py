"""Training on a folder or zip of pictures without a settings file (docs/auto.md)."""
