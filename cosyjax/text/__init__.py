"""Text normalisation, splitting and tokenization; no arrays."""
