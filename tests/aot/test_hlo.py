"""The text of a compiled program is read as XLA means it."""

from __future__ import annotations

import pytest

from cosyjax.aot import hlo

TEXT = """HloModule jit_f, is_scheduled=true, num_partitions=8

%fused (param_0: f32[8,4]) -> f32[8,4] {
  %param_0 = f32[8,4]{1,0:T(8,128)} parameter(0)
  ROOT %add = f32[8,4]{1,0:T(8,128)} add(%param_0, %param_0), metadata={op_name="jit(f)/add"}
}

ENTRY %main (x: f32[8,4]) -> (f32[8,4], bf16[3,130]) {
  %x = f32[8,4]{1,0:T(8,128)S(1)} parameter(0)
  %fusion.1 = f32[8,4]{1,0:T(8,128)} fusion(%x), kind=kLoop, calls=%fused
  %kernel = (bf16[3,130]{1,0:T(8,128)(2,1)}, /*index=1*/u32[]) custom-call(%x), CALL={meta={
"told":"over two lines"
}}, metadata={op_name="jit(f)/kernel"}
  %part = bf16[3,130]{1,0:T(8,128)(2,1)} get-tuple-element(%kernel), index=0
  ROOT %tuple = (f32[8,4]{1,0}, bf16[3,130]{1,0}) tuple(%fusion.1, %part)
}
"""


def test_computations_instructions_and_what_they_read() -> None:
    module = hlo.parse(TEXT)
    assert module.num_partitions == 8 and module.num_instructions == 7
    assert [one.opcode for one in module.entry.instructions] == [
        "parameter",
        "fusion",
        "custom-call",
        "get-tuple-element",
        "tuple",
    ]
    fusion = module.entry.by_name["fusion.1"]
    assert fusion.operands == ("x",) and fusion.called == ("fused",)
    assert module.entry.root.name == "tuple" and set(module.entry.parameters) == {0}


def test_what_a_kernel_says_over_several_lines_does_not_end_its_computation() -> None:
    entry = hlo.parse(TEXT).entry
    assert entry.by_name["kernel"].op_name == "jit(f)/kernel"
    assert entry.by_name["part"].attribute("index") == "0"


@pytest.mark.parametrize(
    "text, size",
    [
        ("f32[8,4]{1,0}", 8 * 4 * 4),
        ("f32[8,4]{1,0:T(8,128)}", 8 * 128 * 4),  # padded to a tile
        ("bf16[3,130]{1,0:T(8,128)(2,1)}", 8 * 256 * 2),
        ("f32[4,8]{0,1:T(8,128)}", 8 * 128 * 4),  # the first dimension varies fastest
        ("f32[2,3,100]{2,1,0:T(8,128)}", 2 * 8 * 128 * 4),
        ("pred[5]{0:T(512)}", 512),
        ("s32[]", 4),
        ("u32[]{:S(2)}", 4),
    ],
)
def test_the_padding_of_tiles_takes_memory(text: str, size: int) -> None:
    (shape,) = hlo.shapes_of(text)
    assert shape.bytes == size


def test_the_memory_space_is_read() -> None:
    entry = hlo.parse(TEXT).entry
    assert entry.by_name["x"].shapes[0].space == 1
    assert entry.by_name["fusion.1"].shapes[0].space == hlo.HBM


def test_a_text_without_an_entry_is_no_program() -> None:
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("HloModule empty\n")
