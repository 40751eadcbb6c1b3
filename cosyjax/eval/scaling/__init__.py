"""Scaling laws of the language model: a table of runs, two fits with intervals, pictures.

docs/scaling.md says what is counted and what the formulas are.
"""
