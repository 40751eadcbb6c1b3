"""What chips exchange is read from a program, within a slice and between slices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cosyjax import sharding
from cosyjax.aot import hlo
from cosyjax.aot.collectives import Collective, collectives, replica_groups
from cosyjax.aot.cost import host_transfers

SIZE = 64


@pytest.mark.parametrize(
    "text, groups",
    [
        ("replica_groups={{0,2},{1,3}}, x=1", [[0, 2], [1, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
        ("replica_groups={}", [[0, 1, 2, 3]]),
    ],
)
def test_groups_are_read_in_every_way_that_they_are_written(text: str, groups) -> None:
    one = hlo.Instruction("x", "all-reduce", (), (), text, False)
    np.testing.assert_array_equal(replica_groups(one, 4), groups)


def exchanged(function, mesh, spec: P, out: P, chips_per_slice: int) -> list[Collective]:
    placed = lambda spec: jax.sharding.NamedSharding(mesh, spec)
    x = jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32, sharding=placed(spec))
    text = jax.jit(function, out_shardings=placed(out)).lower(x).compile().as_text()
    return collectives(hlo.parse(text), chips_per_slice)


def test_gathering_a_parameter_brings_in_what_the_others_hold() -> None:
    mesh = sharding.make_mesh(1, 8, 1)
    (one,) = exchanged(lambda x: x + 1.0, mesh, P("fsdp"), P(), 8)
    assert (one.kind, one.group, one.slices) == ("all-gather", 8, 1)
    assert one.ici_bytes == SIZE * SIZE * 4 * 7 / 8 and one.dcn_bytes == 0


def test_a_sum_over_slices_crosses_the_network_once_for_a_whole_slice() -> None:
    mesh = sharding.make_mesh(2, 4, 1)
    found = exchanged(lambda x: jnp.sum(x, axis=0), mesh, P(("data", "fsdp")), P(), 4)
    (one,) = [one for one in found if one.kind == "all-reduce"]
    assert (one.group, one.slices, one.bytes) == (8, 2, SIZE * 4)
    assert one.ici_bytes == 2 * one.bytes * 3 / 4
    assert one.dcn_bytes == 2 * one.bytes * 1 / 2 / 4  # the four chips of a slice share it


def test_what_is_cut_into_steps_is_counted_once() -> None:
    line = (
        "  %{name} = f32[8]{{0}} all-gather(%x), channel_id={channel}, replica_groups={{{{0,1}}}}, "
        "dimensions={{0}}\n"
    )
    text = "HloModule f, num_partitions=2\n\nENTRY %main (x: f32[4]) -> f32[8] {\n"
    text += "  %x = f32[4]{0} parameter(0)\n"
    text += line.format(name="a", channel=1) + line.format(name="b", channel=1)
    text += line.format(name="c", channel=2) + "}\n"
    assert len(collectives(hlo.parse(text), 2)) == 2


SLICES = """HloModule f, num_partitions=16

ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0} parameter(0)
  %after-all = token[] after-all()
  %send = (f32[8,128]{1,0}, u32[], token[]) send(%x, %after-all), HOW
  %send-done = token[] send-done(%send), HOW
  %recv = (f32[8,128]{1,0}, u32[], token[]) recv(%after-all), HOW
  %recv-done = (f32[8,128]{1,0}, token[]) recv-done(%recv), HOW
  ROOT %y = f32[8,128]{1,0} get-tuple-element(%recv-done), index=0
}
"""
BY_NETWORK = (
    'is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="'
    'xla_megascale_runtime",_xla_megascale_transfer_type="ALL_REDUCE"}'
)


def test_what_slices_send_each_other_goes_over_the_network_and_waits_for_no_host() -> None:
    module = hlo.parse(SLICES.replace("HOW", BY_NETWORK))
    (one,) = collectives(module, 8)
    assert one.kind == "between slices: all-reduce"
    assert (one.ici_bytes, one.dcn_bytes) == (0, 8 * 128 * 4)
    assert not host_transfers(module)


def test_a_program_that_sends_to_its_host_is_found_out() -> None:
    module = hlo.parse(SLICES.replace("HOW", "is_host_transfer=true"))
    assert not collectives(module, 8) and len(host_transfers(module)) == 4
