"""Measurements: speed, memory, accuracy."""
