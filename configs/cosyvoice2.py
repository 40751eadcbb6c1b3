"""CosyVoice 2, the official sizes; every number is the dataclass's default.

cosyjax convert FunAudioLLM/CosyVoice2-0.5B cosyvoice2
"""

from cosyjax.infer.bundle import BundleConfig


def get_config() -> BundleConfig:
    """The 0.5B system."""
    return BundleConfig()
