"""Masked softmax attention: closed forms."""

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.ops import attend as attend_module

attend = jax.jit(attend_module.attend)


def test_equal_scores_give_the_mean_of_what_may_be_seen():
    value = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 2, 3)), jnp.float32)
    zeros = jnp.zeros((1, 4, 2, 3))
    mask = jnp.asarray([[[True, True, False, False]]])
    y = attend(zeros, zeros, value, mask)
    np.testing.assert_allclose(y[0, 0], value[0, :2].mean(0), rtol=1e-6)


def test_masked_keys_have_no_gradient():
    key = jnp.asarray(np.random.default_rng(1).normal(size=(1, 3, 1, 4)), jnp.float32)
    mask = jnp.asarray([[[True, True, False]]])
    gradient = jax.jit(jax.grad(lambda k: jnp.sum(attend(key, k, key, mask) ** 2)))(key)
    assert np.all(gradient[0, 2] == 0) and np.any(gradient[0, :2] != 0)


def test_a_row_that_sees_nothing_stays_finite():
    x = jnp.ones((1, 3, 1, 4))
    assert np.all(np.isfinite(attend(x, x, x, jnp.zeros((1, 1, 3), bool))))


def test_rounded_operands_have_the_gradients_of_float32_to_their_precision():
    x = [jax.random.normal(jax.random.key(i), (2, 5, 2, 8)) for i in range(3)]
    mask = jnp.ones((1, 5, 5), bool)

    def gradients(compute):
        loss = lambda *x: jnp.sum(attend_module.attend(*x, mask, compute=compute) ** 2)
        return jax.jit(jax.grad(loss, (0, 1, 2)))(*x)

    for got, wanted in zip(gradients("bfloat16"), gradients("float32")):
        np.testing.assert_allclose(got, wanted, atol=0.03 * float(jnp.std(wanted)) + 0.03)


def test_one_head_after_another_equals_all_at_once_and_so_do_the_gradients():
    rows, heads, size, width = 2, 3, 7, 4
    x = [jax.random.normal(jax.random.key(i), (rows, size, heads, width)) for i in range(4)]
    mask = jnp.tril(jnp.ones((rows, size, size), bool)).at[1, 5:, :3].set(False)
    flat = lambda x: x.swapaxes(1, 2).reshape(rows * heads, size, width)

    def by_head(*x):
        y = attend_module.attend_by_head(*map(flat, x), mask)
        return y.reshape(rows, heads, size, width).swapaxes(1, 2)

    whole = lambda *x: attend_module.attend(*x, mask)
    run = lambda f: jax.jit(lambda *x: (f(*x[:3]), jax.vjp(f, *x[:3])[1](x[3])))(*x)
    for got, wanted in zip(jax.tree.leaves(run(by_head)), jax.tree.leaves(run(whole)), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
