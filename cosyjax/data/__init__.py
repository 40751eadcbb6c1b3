"""Records and arrays; knows no models."""
