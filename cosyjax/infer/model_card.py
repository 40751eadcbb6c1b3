"""The README.md of a bundle: what it is, from where, for what, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping

CARD = """---
license: apache-2.0
library_name: cosyjax
pipeline_tag: text-to-speech
tags: [text-to-speech, speech-synthesis, voice-cloning, streaming, jax, flax]
---

# CosyVoice 2 for cosyjax

Made from: {source}

CosyVoice 2 (arXiv 2412.10117) turns text into speech in the voice of a short recording. This
folder holds its weights for [cosyjax](https://pypi.org/project/cosyjax/), a JAX and Flax
implementation.

```python
import cosyjax

tts = cosyjax.load("path/of/this/folder")
voice = tts.clone("prompt.wav", "What is said in the recording.")
tts.synthesize("Hello there.", voice=voice).save("hello.wav")
```

| module | parameters | file |
|---|---|---|
{sizes}

Audio: {sample_rate_hz} Hz, mono. Noise buffer of the flow: {noise}.

## Intended use

Reading text aloud, assistants, accessibility, dubbing and research on speech synthesis, in voices
whose speakers agreed to it.

## Out of scope

Imitating a person who did not agree, passing synthetic speech off as a recording of someone,
fraud, getting past voice identification, and anything the law forbids where you are.

## Consent

A voice file holds what it takes to speak like one person. Make one only with that person's
consent, and write its origin and the consent into the voice's note (`cosyjax clone --note`). Tell
listeners that what they hear is synthetic.

## Licence

The official CosyVoice 2 weights and code are published under the Apache License 2.0; so is
cosyjax. If the weights here were trained or tuned by someone else, their terms apply as well.
"""


def model_card(
    num_params: Mapping[str, int], *, source: str, sample_rate_hz: int, has_noise: bool
) -> str:
    """Fills in the card.

    Args:
      num_params: {module: number of parameters}.
      source: where the weights came from.
      sample_rate_hz: of the audio.
      has_noise: whether the official noise buffer lies in the bundle.
    """
    sizes = [f"| {m} | {n:,} | `{m}.safetensors` |" for m, n in num_params.items()]
    total = f"| all | {sum(num_params.values()):,} | |"
    return CARD.format(
        source=source or "not recorded",
        sizes="\n".join([*sizes, total]),
        sample_rate_hz=sample_rate_hz,
        noise="the official one, `noise.safetensors`" if has_noise else "none, drawn from the seed",
    )
