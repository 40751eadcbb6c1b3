"""Training objectives: arrays in, scalars and metrics out."""
