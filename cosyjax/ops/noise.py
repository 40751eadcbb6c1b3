"""Where the flow's starting noise comes from: always a function of the absolute frame.

The official model draws one buffer of 300 s when it is built, with the torch CPU generator seeded
with 0, and every utterance starts from its first frames. That buffer is not in the checkpoint; it
is rebuilt here. For other seeds a key and the frame's number make the noise, so that the sound
does not depend on how the utterance was cut into calls.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.shapes import NUM_MELS

OFFICIAL_FRAMES = 15_000  # 300 s


@functools.cache
def official_noise() -> np.ndarray:
    """The official buffer, time first: read-only float32 [15000, 80].

    The recipe of a torch CPU normal: 24-bit uniforms from a Mersenne twister seeded with 0, in
    blocks of 16, of which the first 8 give the radius and the last 8 the angle (Box-Muller). It
    agrees with torch to the last bits of float32 (torch's vector logarithm rounds differently).
    """
    size = NUM_MELS * OFFICIAL_FRAMES
    draws = np.frombuffer(np.random.RandomState(0).bytes(4 * size), "<u4")
    uniform = (draws & 0xFFFFFF).astype(np.float32).reshape(-1, 2, 8) / np.float32(1 << 24)
    radius = np.sqrt(np.float32(-2.0) * np.log(np.float32(1.0) - uniform[:, 0]))
    angle = np.float32(2.0 * np.pi) * uniform[:, 1]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    noise = np.ascontiguousarray(pairs.reshape(NUM_MELS, OFFICIAL_FRAMES).T)
    noise.setflags(write=False)
    return noise


def frame_noise(key: jax.Array, frames: jax.Array, num_mels: int = NUM_MELS) -> jax.Array:
    """Normal noise of the frames with the given absolute numbers: int [..., F] -> [..., F, M]."""
    one = lambda frame: jax.random.normal(jax.random.fold_in(key, frame), (num_mels,), jnp.float32)
    flat = jax.vmap(one)(jnp.ravel(frames).astype(jnp.uint32))
    return flat.reshape(*jnp.shape(frames), num_mels)


def buffer_noise(buffer: jax.Array, frames: jax.Array) -> jax.Array:
    """The frames with the given absolute numbers of a buffer [N, M], which repeats after its end.

    Differs: the official model refuses more than its 300 s.
    """
    return jnp.take(jnp.asarray(buffer), frames % buffer.shape[0], axis=0)
