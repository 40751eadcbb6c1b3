"""The stack of blocks, in its unrolled, scanned, fused and rematerialised forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.layers import stacking
from cosyjax.layers.transformer import Transformer, TransformerConfig, lengthen, position
from tests import contracts
from tests.compiled import Compiled
from tests.drawn import drawn, normal

CONFIG = TransformerConfig(2, 12, 4, 2, 4, 20, rope_theta=100.0)
SINGLE = dataclasses.replace(CONFIG, num_layers=1)
X = normal(1, 6, 12)


def _variables(config=CONFIG):
    return drawn(Transformer(config).init, X)


def test_it_streams():
    layer, variables = Compiled(Transformer(SINGLE)), _variables(SINGLE)
    contracts.assert_streams(layer, variables, X, [(3, 3)], init_args=(8,))


def test_scanned_layers_equal_unrolled_ones_in_call_and_step():
    variables = _variables()
    scanned = dataclasses.replace(CONFIG, scan_layers=True)
    stacked = {"params": stacking.stack_layers(variables["params"])}
    assert jax.tree.structure(stacked) == jax.tree.structure(_variables(scanned))
    wanted = Compiled(Transformer(CONFIG)).apply(variables, X)
    layer = Compiled(Transformer(scanned))
    np.testing.assert_allclose(layer.apply(stacked, X), wanted, atol=2e-5)
    state = layer.apply(stacked, 1, 6, method="init_state")
    y, state = layer.apply(stacked, X[:, :4], state, method="step")
    np.testing.assert_array_equal(position(state), [4])
    z, _ = layer.apply(stacked, X[:, 4:], lengthen(state, 9), method="step")
    np.testing.assert_allclose(np.concatenate([y, z], axis=1), wanted, atol=2e-5)


def test_stacking_there_and_back_changes_no_bit():
    params = _variables()["params"]
    stacked = jax.jit(stacking.stack_layers)({"backbone": params})
    assert stacking.is_stacked(stacked) and not stacking.is_stacked(params)
    back = jax.jit(stacking.unstack_layers)(stacked)["backbone"]
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_fused_parameters_compute_the_same():
    variables = _variables()
    fused = Compiled(Transformer(dataclasses.replace(CONFIG, fused=True)))
    got = fused.apply({"params": jax.jit(stacking.fuse)(variables["params"])}, X)
    wanted = Compiled(Transformer(CONFIG)).apply(variables, X)
    np.testing.assert_allclose(got, wanted, atol=2e-6)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.slow
def test_recomputation_changes_no_gradient(scan):
    grads = []
    for remat in ("none", "full"):
        config = dataclasses.replace(SINGLE, remat=remat, scan_layers=scan)
        variables = _variables(config)
        loss = lambda v, m=Transformer(config): jnp.sum(m.apply(v, X) ** 3)
        text = str(jax.make_jaxpr(jax.grad(loss))(variables))
        assert ("remat" in text or "checkpoint" in text) == (remat == "full")
        grads.append(jax.jit(jax.grad(loss))(variables))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *grads)


def num_kernels(jaxpr):
    """Kernels that run; one in a function whose results nobody needs is left out by XLA."""
    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive.name == "pallas_call"
        for inner in (getattr(v, "jaxpr", v) for v in equation.params.values()):
            if (
                hasattr(inner, "eqns")
                and equation.outvars
                and equation.primitive.name[:6] != "pallas"
            ):
                count += num_kernels(inner)
    return count


@pytest.mark.parametrize("remat, times", [("none", 2), ("dots", 2), ("full", 3)])
def test_what_the_kernel_gives_is_kept_where_products_are(remat, times):
    how = {"attention": "splash_interpret", "remat": remat, "scan_layers": True}
    config = dataclasses.replace(SINGLE, **how)
    shapes = jax.eval_shape(lambda: _variables(config))
    loss = lambda v: jnp.sum(Transformer(config).apply(v, X) ** 3)
    # Once forward and once backward, and again where nothing is kept.
    assert num_kernels(jax.make_jaxpr(jax.grad(loss))(shapes).jaxpr) == times


def test_an_mlp_that_rounds_its_wide_values_learns_the_same_and_keeps_half_the_bytes():
    variables = _variables(SINGLE)
    kept, grads = [], []
    for result in ("float32", "bfloat16"):
        how = {"compute": "bfloat16", "mlp_result": result, "remat": "dots"}
        config = dataclasses.replace(SINGLE, **how)
        loss = lambda v, m=Transformer(config): jnp.sum(m.apply(v, X) ** 2)
        residuals = jax.tree.leaves(jax.eval_shape(lambda v, f=loss: jax.vjp(f, v)[1], variables))
        wide = [x for x in residuals if x.shape == (*X.shape[:2], SINGLE.mlp_dim)]
        kept.append({x.dtype.name for x in wide})
        grads.append(jax.jit(jax.grad(loss))(variables))
    assert kept == [{"float32"}, {"bfloat16"}]
    pairs = list(zip(*map(jax.tree.leaves, grads), strict=True))
    assert all(np.linalg.norm(a - b) < 0.02 * np.linalg.norm(a) + 1e-3 for a, b in pairs)
    assert any(np.any(a != b) for a, b in pairs)


def test_sizes_that_contradict_each_other_are_named():
    with pytest.raises(InputError, match="num_heads=3"):
        TransformerConfig(num_heads=3, num_kv_heads=2)
    with pytest.raises(InputError, match="allowed: none, dots, full"):
        TransformerConfig(remat="some")
    with pytest.raises(InputError, match="mlp_result='bf16'.*bfloat16"):
        TransformerConfig(mlp_result="bf16")
