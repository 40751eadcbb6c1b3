"""Torch files: tensors come out, code does not run, damage is named."""

import os
import pickle

import ml_dtypes
import numpy as np
import pytest
import torch

from cosyjax.convert.torch_files import read_state_dict, write_state_dict
from cosyjax.errors import InputError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Intruder:
    """Unpickling it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_come_out_as_they_went_in(tmp_path, legacy):
    torch.save(TENSORS, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    state = read_state_dict(tmp_path / "x.pt")
    assert list(state.tensors) == list(TENSORS) and not state.dtypes
    for key, value in TENSORS.items():
        np.testing.assert_array_equal(state.tensors[key], value.numpy())


def test_bookkeeping_of_the_trainer_is_dropped(tmp_path):
    torch.save(TENSORS | {"epoch": 3, "step": 1200}, tmp_path / "x.pt")
    assert set(read_state_dict(tmp_path / "x.pt").tensors) == set(TENSORS)


def test_a_wrapped_state_dict_is_unwrapped(tmp_path):
    torch.save({"state_dict": TENSORS, "epoch": 3}, tmp_path / "x.pt")
    assert set(read_state_dict(tmp_path / "x.pt").tensors) == set(TENSORS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats_become_float32_and_go_back_bit_equal(tmp_path, dtype):
    value = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    value = value.float().to(dtype)  # a double that float32 holds
    torch.save({"w": value, "v": torch.ones(2)}, tmp_path / "x.pt")
    state = read_state_dict(tmp_path / "x.pt")
    assert state.tensors["w"].dtype == np.float32
    assert state.dtypes == {"w": str(dtype).removeprefix("torch.")}
    write_state_dict(tmp_path / "y.pt", state.tensors, state.dtypes)
    again = torch.load(tmp_path / "y.pt", weights_only=True)
    assert again["w"].dtype == dtype and torch.equal(again["w"], value)
    assert again["v"].dtype == torch.float32


def test_one_array_under_two_keys_is_stored_once(tmp_path):
    array = np.zeros(10_000, np.float32)
    write_state_dict(tmp_path / "x.pt", {"a": array, "b": array})
    assert (tmp_path / "x.pt").stat().st_size < 60_000


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_asks_to_run_code_does_not_run_it(tmp_path, legacy):
    target = tmp_path / "made-by-intruder"
    torch.save(
        TENSORS | {"x": Intruder(target)},
        tmp_path / "x.pt",
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(InputError, match=r"asks to run code \(posix.mkdir\)"):
        read_state_dict(tmp_path / "x.pt")
    assert not target.exists()


def test_a_bare_pickle_that_asks_to_run_code_does_not_run_it(tmp_path):
    target = tmp_path / "made-by-intruder"
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Intruder(target)))
    with pytest.raises(InputError, match="asks to run code|not a torch checkpoint"):
        read_state_dict(tmp_path / "x.pt")
    assert not target.exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.97])
def test_a_truncated_file_is_said_to_be_damaged(tmp_path, legacy, share):
    path = tmp_path / "x.pt"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match="x.pt: (truncated|not a torch checkpoint)"):
        read_state_dict(path)


@pytest.mark.parametrize("content", [b"RIFF1234WAVE" * 9, b"{}", b"\x80\x02}q\x00.", b"hello\n"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(InputError, match="x.pt"):
        read_state_dict(tmp_path / "x.pt")


def test_what_is_not_a_state_dict_is_refused(tmp_path):
    torch.save(torch.ones(3), tmp_path / "x.pt")
    with pytest.raises(InputError, match="holds a Tensor; a state dict is needed"):
        read_state_dict(tmp_path / "x.pt")
    torch.save(TENSORS | {"config": {"a": 1}}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="'config' .dict."):
        read_state_dict(tmp_path / "x.pt")
    with pytest.raises(InputError, match="no such file"):
        read_state_dict(tmp_path / "absent.pt")


def test_bfloat16_is_widened_exactly(tmp_path):
    torch.save({"w": torch.tensor([1.00390625, -3.0]).bfloat16()}, tmp_path / "x.pt")
    widened = read_state_dict(tmp_path / "x.pt").tensors["w"]
    np.testing.assert_array_equal(widened, widened.astype(ml_dtypes.bfloat16).astype(np.float32))
