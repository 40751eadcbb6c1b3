"""Official checkpoints in and out; the only folder that may import torch."""
