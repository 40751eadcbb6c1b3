"""Serving many listeners from one model."""
