"""Safetensors files: bit-equal, readable by others, and honest about damage."""

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as reference

from cosyjax.errors import InputError
from cosyjax.io import files

ARRAYS = {
    "a.kernel": np.arange(12, dtype=np.float32).reshape(3, 4).T,  # strided
    "a.scale": np.float32(2.5),
    "b": np.arange(5, dtype=np.int64),
    "c": np.array([1.5, -2.0], ml_dtypes.bfloat16),
    "empty": np.zeros((0, 80), np.float32),
    "flags": np.array([True, False]),
}


def test_arrays_come_back_bit_equal(tmp_path):
    files.save_arrays(tmp_path / "x.safetensors", ARRAYS, metadata={"name": "ü"})
    arrays, metadata = files.load_arrays(tmp_path / "x.safetensors")
    assert metadata == {"name": "ü"}
    assert set(arrays) == set(ARRAYS)
    for name, expected in ARRAYS.items():
        assert arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(arrays[name], expected)


def test_a_tree_comes_back(tmp_path):
    tree = {"a": {"b": {"kernel": np.ones(3, np.float32)}}, "c": np.zeros(2, np.int32)}
    files.save_tree(tmp_path / "x.safetensors", tree)
    again = files.load_tree(tmp_path / "x.safetensors")
    assert again["a"]["b"]["kernel"].tolist() == [1, 1, 1] and again["c"].tolist() == [0, 0]


def test_the_reference_library_reads_ours_and_we_read_its(tmp_path):
    plain = {name: np.ascontiguousarray(value) for name, value in ARRAYS.items() if name != "c"}
    files.save_arrays(tmp_path / "ours.safetensors", plain)
    reference.save_file(plain, tmp_path / "theirs.safetensors")
    theirs = reference.load_file(tmp_path / "ours.safetensors")
    ours, _ = files.load_arrays(tmp_path / "theirs.safetensors")
    for name, expected in plain.items():
        np.testing.assert_array_equal(theirs[name], expected)
        np.testing.assert_array_equal(ours[name], expected)


@pytest.mark.parametrize("keep", [0, 4, 60, 200, -1])
def test_a_truncated_file_is_said_to_be_damaged(tmp_path, keep):
    path = tmp_path / "x.safetensors"
    files.save_arrays(path, ARRAYS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="truncated|not a safetensors"):
        files.load_arrays(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"RIFF" + bytes(100))
    with pytest.raises(InputError, match="not a safetensors"):
        files.load_arrays(path)
    with pytest.raises(InputError, match="no such file"):
        files.load_arrays(tmp_path / "absent.safetensors")


def test_offsets_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    files.save_arrays(path, {"a": np.zeros(4, np.float32)})
    path.write_bytes(path.read_bytes().replace(b'"shape":[4]', b'"shape":[9]'))
    with pytest.raises(InputError, match="damaged"):
        files.load_arrays(path)


def test_checksums_name_what_changed(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    files.write_checksums(tmp_path)
    files.verify_checksums(tmp_path)
    (tmp_path / "b").write_text("c")
    (tmp_path / "sub" / "a").unlink()
    with pytest.raises(InputError, match="b differs, sub/a is missing"):
        files.verify_checksums(tmp_path)
