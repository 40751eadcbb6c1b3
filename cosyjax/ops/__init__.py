"""Arrays in, arrays out: no parameters, no Flax."""
