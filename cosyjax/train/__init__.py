"""Training: one loop and one step for every stage."""
