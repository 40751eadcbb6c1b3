"""Matrix products and one-dimensional convolutions, in a chosen compute type.

`compute` is one of
    "float32"   operands and accumulation in float32
    "bfloat16"  operands rounded to bfloat16, accumulation and result in float32
    "bfloat16x3" each operand split in a high and a low bfloat16 half; three products recover
                about 16 bits of mantissa, so results agree with float32 to about 1e-5
Results are float32, unless `dense` is asked to round them: norms, residual sums and softmax follow
in float32. The products of
the gradient take their operands in the same type, the cotangent included.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import string
from collections.abc import Callable, Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from cosyjax import sharding
from cosyjax.errors import InputError
from cosyjax.ops import fast_conv

Axes = tuple[str | None, ...]
Compute = Literal["float32", "bfloat16", "bfloat16x3"]
DENSE = "dense"  # name of the results of `dense`
COMPUTE_TYPES: tuple[Compute, ...] = ("float32", "bfloat16", "bfloat16x3")

# Convolution by tiles saves half the products; with few channels or frames its sums cost as much.
TILED_CHANNELS = 32
TILED_FRAMES = 512  # for a kernel that is transformed in the same call
_target: contextvars.ContextVar[str] = contextvars.ContextVar("platform", default="")


def einsum(
    subscripts: str, x: jax.Array, y: jax.Array, *, compute: str = "float32", axes: Axes = ()
) -> jax.Array:
    """Two-operand einsum with operands in `compute` and a float32 result.

    Args:
      subscripts: as of `jnp.einsum`.
      x: first operand.
      y: second operand.
      compute: type of the operands.
      axes: logical names of the dimensions of `y`, a parameter that may lie in parts on several
        devices: it is rounded first and then gathered, see `sharding.gather`.
    """
    if compute == "float32":
        return jnp.einsum(
            subscripts,
            x,
            sharding.gather(axes, y),
            preferred_element_type=jnp.float32,
            precision=jax.lax.Precision.HIGHEST,
        )
    if compute in COMPUTE_TYPES:
        letters = _explicit(subscripts, x.ndim, y.ndim)
        return _einsum_rounded(letters, compute, (str(x.dtype), str(y.dtype)), axes, x, y)
    raise InputError(f"compute={compute!r}; allowed: {', '.join(COMPUTE_TYPES)}")


def _explicit(subscripts: str, *ranks: int) -> str:
    """Spells an ellipsis out, so that the gradient's products can be named."""
    if "..." not in subscripts:
        return subscripts
    operands, _ = subscripts.split("->")
    sizes = [r - len(part.replace("...", "")) for part, r in zip(operands.split(","), ranks)]
    free = [letter for letter in string.ascii_uppercase if letter not in subscripts]
    return subscripts.replace("...", "".join(free[: max(sizes)]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _einsum_rounded(
    subscripts: str,
    compute: str,
    dtypes: tuple[str, str],
    axes: Axes,
    x: jax.Array,
    y: jax.Array,
) -> jax.Array:
    """An einsum whose gradient's products round their operands as its own do.

    Left to itself the gradient multiplies float32 cotangents, without the matrix units.

    Args:
      subscripts: every letter of an operand stands in the other one or in the result.
      compute: "bfloat16" or "bfloat16x3".
      dtypes: of `x` and `y`, for their cotangents.
      axes: see `einsum`.
      x: first operand.
      y: second operand.
    """
    if compute == "bfloat16":
        y = sharding.gather(axes, y.astype(jnp.bfloat16))
        return _einsum_bf16(subscripts, x.astype(jnp.bfloat16), y)
    (x_high, x_low), (y_high, y_low) = _split(x), _split(sharding.gather(axes, y))
    return (
        _einsum_bf16(subscripts, x_low, y_high)
        + _einsum_bf16(subscripts, x_high, y_low)
        + _einsum_bf16(subscripts, x_high, y_high)
    )


def _forward(
    subscripts: str,
    compute: str,
    dtypes: tuple[str, str],
    axes: Axes,
    x: jax.Array,
    y: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    if compute == "bfloat16":  # what is kept for the backward pass takes half the memory
        x, y = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
    return _einsum_rounded(subscripts, compute, dtypes, axes, x, y), (x, y)


def _backward(
    subscripts: str,
    compute: str,
    dtypes: tuple[str, str],
    axes: Axes,
    kept: tuple[jax.Array, jax.Array],
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    operands, result = subscripts.split("->")
    first, second = operands.split(",")
    x, y = kept
    dx = einsum(f"{result},{second}->{first}", cotangent, y, compute=compute, axes=axes)
    dy = einsum(f"{first},{result}->{second}", x, cotangent, compute=compute)
    dy = sharding.constrain(dy, *axes) if axes else dy
    return dx.astype(dtypes[0]), dy.astype(dtypes[1])


_einsum_rounded.defvjp(_forward, _backward)


def _einsum_bf16(subscripts: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, x, y, preferred_element_type=jnp.float32)


def _split(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    high = x.astype(jnp.bfloat16)
    return high, (x - high.astype(jnp.float32)).astype(jnp.bfloat16)


def dense(
    x: jax.Array,
    kernel: jax.Array,
    *,
    compute: str = "float32",
    axes: Axes = (),
    result: str = "float32",
) -> jax.Array:
    """[..., D] @ [D, E] -> [..., E] in type `result`; named DENSE for a backward pass to keep."""
    y = einsum("...d,de->...e", x, kernel, compute=compute, axes=axes)
    return checkpoint_name(y.astype(result), DENSE)


def conv1d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: tuple[int, int] = (0, 0),
    compute: str = "float32",
    direct: bool = False,
) -> jax.Array:
    """Convolves over time, on a CPU by the products of `fast_conv` where they pay.

    Args:
      x: [B, T, D].
      kernel: [width, D, E].
      stride: frames between outputs.
      dilation: frames between taps.
      padding: zero frames (left, right).
      compute: operand type of the products.
      direct: never by tiles, whose rounding depends on where in its tile a frame lies.

    Returns:
      [B, (T + sum(padding) - dilation * (width - 1) - 1) // stride + 1, E] float32.
    """
    width, inputs, features = kernel.shape
    num_out = x.shape[1] + sum(padding) - dilation * (width - 1)
    fits = stride == 1 and num_out > 0 and on_cpu() and not direct
    if compute == "float32":
        if fits and tiles_pay(width, inputs, features) and x.shape[0] * num_out >= TILED_FRAMES:
            return _tiled(dilation, padding, x, kernel)
        return _direct(x, kernel, stride, dilation, padding)
    x = jnp.pad(x, ((0, 0), padding, (0, 0)))
    if fits and width > 1:
        return fast_conv.wide(x, kernel, _product(compute), dilation=dilation)
    num_out = (num_out - 1) // stride + 1
    last = (num_out - 1) * stride + 1
    taps = [x[:, k * dilation : k * dilation + last : stride] for k in range(width)]
    return dense(jnp.concatenate(taps, axis=-1), kernel.reshape(-1, features), compute=compute)


@functools.partial(jax.jit, static_argnames=("width", "dilation", "padding"))
def conv1d_tiled(
    x: jax.Array,
    points: jax.Array,
    *,
    width: int,
    dilation: int = 1,
    padding: tuple[int, int] = (0, 0),
) -> jax.Array:
    """As `conv1d` in float32 with stride 1, given `fast_conv.transform_kernel(kernel)`."""
    x = jnp.pad(x, ((0, 0), padding, (0, 0)))
    return fast_conv.toom_cook(x, points, _product("float32"), width=width, dilation=dilation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _tiled(dilation: int, padding: tuple[int, int], x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv1d_tiled` of a kernel, with the gradient of the direct convolution.

    The gradient of the tiles themselves takes 10 to 40 times as long as they do.
    """
    points = fast_conv.transform_kernel(kernel)
    return conv1d_tiled(x, points, width=kernel.shape[0], dilation=dilation, padding=padding)


def _tiled_forward(
    dilation: int, padding: tuple[int, int], x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _tiled(dilation, padding, x, kernel), (x, kernel)


def _tiled_backward(
    dilation: int,
    padding: tuple[int, int],
    kept: tuple[jax.Array, jax.Array],
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    direct = lambda x, kernel: _direct(x, kernel, 1, dilation, padding)
    return jax.vjp(direct, *kept)[1](cotangent)  # type: ignore[no-any-return]


_tiled.defvjp(_tiled_forward, _tiled_backward)


def on_cpu() -> bool:
    """True where programs are traced for a CPU."""
    return _platform() == "cpu"


def on_tpu() -> bool:
    """True where programs are traced for a TPU."""
    return _platform() == "tpu"


def _platform() -> str:
    return _target.get() or jax.default_backend()


@contextlib.contextmanager
def tracing_for(platform: str) -> Iterator[None]:
    """While programs are traced for machines of another kind than this one."""
    before = _target.set(platform)
    try:
        yield
    finally:
        _target.reset(before)


def tiles_pay(width: int, inputs: int, features: int) -> bool:
    """True for kernels whose convolution by tiles is faster than a direct one on a CPU."""
    return width >= 3 and min(inputs, features) >= TILED_CHANNELS


def _product(compute: str) -> Callable[[str, jax.Array, jax.Array], jax.Array]:
    return functools.partial(einsum, compute=compute)


def _direct(
    x: jax.Array, kernel: jax.Array, stride: int, dilation: int, padding: tuple[int, int]
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride,),
        padding=(padding,),
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
        preferred_element_type=jnp.float32,
        precision=jax.lax.Precision.HIGHEST,
    )


def conv1d_transpose(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int,
    padding: tuple[int, int] = (0, 0),
    compute: str = "float32",
) -> jax.Array:
    """Transposed convolution over time, as a convolution whose channels are output phases.

    Output frame t * stride + r is the sum over q of x[t - q] @ kernel[q * stride + r], so one
    convolution with `stride * E` channels gives all `stride` phases r at once.

    Args:
      x: [B, T, D].
      kernel: [width, D, E]; tap k of frame t adds to output frame t * stride + k.
      stride: output frames per input frame.
      padding: output frames cut off (left, right).
      compute: operand type of the products.

    Returns:
      [B, (T - 1) * stride + width - sum(padding), E] float32.
    """
    width, inputs, features = kernel.shape
    taps = -(-width // stride)
    kernel = jnp.pad(kernel, ((0, taps * stride - width), (0, 0), (0, 0)))
    kernel = kernel.reshape(taps, stride, inputs, features)[::-1]
    kernel = kernel.transpose(0, 2, 1, 3).reshape(taps, inputs, stride * features)
    y = conv1d(x, kernel, padding=(taps - 1, taps - 1), compute=compute)
    total = (x.shape[1] - 1) * stride + width
    return y.reshape(x.shape[0], -1, features)[:, padding[0] : total - padding[1]]
