"""Files: audio, safetensors, atomic writing."""
