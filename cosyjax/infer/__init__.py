"""Jitted synthesis: bundle, decode, flow, vocoder, voices."""
