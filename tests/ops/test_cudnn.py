"""The GPU kernel's call: what it computes, what it lowers to, and where it is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.ops import cudnn, product
from cosyjax.ops.attend import attend
from tests.drawn import normal

ROWS, SIZE, HEADS, KV_HEADS, WIDTH = 2, 10, 4, 2, 8
GIVEN = [normal(ROWS, SIZE, n, WIDTH, seed=n) for n in (HEADS, KV_HEADS)]
QUERY, KEY, VALUE = GIVEN[0], GIVEN[1], normal(ROWS, SIZE, KV_HEADS, WIDTH, seed=9)
SEGMENTS = np.arange(ROWS * SIZE).reshape(ROWS, SIZE) // 4
LENGTHS = np.array([SIZE, 6], np.int32)


@pytest.mark.parametrize("known", [{"segment_ids": SEGMENTS}, {"lengths": LENGTHS}])
def test_the_call_computed_by_xla_is_causal_attention(known):
    mask = np.tril(np.ones((ROWS, SIZE, SIZE), bool))
    mask &= np.arange(SIZE) < known.get("lengths", np.full(ROWS, SIZE))[:, None, None]
    segments = known.get("segment_ids", np.zeros((ROWS, SIZE)))
    mask &= segments[:, :, None] == segments[:, None]
    share = lambda x: np.repeat(x, HEADS // KV_HEADS, axis=2)
    options = {"compute": "float32", "implementation": "xla", **known}
    got = jax.jit(lambda *x: cudnn.attend(*x, **options))(QUERY, KEY, VALUE)
    wanted = jax.jit(attend)(QUERY, share(KEY), share(VALUE), mask)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_values_and_gradients_lower_to_the_kernel(monkeypatch):
    inner = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(inner, "check_cudnn_version", lambda: 91_000)  # of a machine that has it

    def run(query, key, value, cotangent):
        y, pull = jax.vjp(lambda *x: cudnn.attend(*x, segment_ids=SEGMENTS), query, key, value)
        return y, pull(cotangent)

    with product.tracing_for("cuda"):
        lowered = jax.jit(run).trace(QUERY, KEY, VALUE, QUERY).lower(lowering_platforms=("cuda",))
    for name in ("__cudnn$fmhaScaleBiasSoftmax(", "__cudnn$fmhaScaleBiasSoftmaxBackward("):
        assert name in lowered.as_text()


def test_a_machine_without_the_kernel_is_told_what_to_use_instead():
    with pytest.raises(InputError, match="NVIDIA GPU.*'whole'"):
        cudnn.attend(QUERY, KEY, VALUE)
    with product.tracing_for("cuda"):
        with pytest.raises(InputError, match="compute='bfloat16', not 'float32'"):
            cudnn.attend(QUERY, KEY, VALUE, compute="float32")
        with pytest.raises(InputError, match="cuDNN is not detected.*'whole'"):
            cudnn.attend(jnp.asarray(QUERY), KEY, VALUE)
