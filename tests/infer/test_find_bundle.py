"""Which bundle is meant: the one named, else that of the variable, else the shipped one."""

from __future__ import annotations

from pathlib import Path

import pytest

import cosyjax
from cosyjax.cli import main
from cosyjax.errors import InputError
from cosyjax.infer import shipped
from cosyjax.infer.shipped import find_bundle
from tests.cli.test_bad_input import refused


@pytest.fixture()
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's folder of models, with one in it."""
    monkeypatch.delenv(shipped.VARIABLE, raising=False)
    monkeypatch.setattr(shipped, "_assets", lambda: tmp_path / "assets")
    (tmp_path / "assets" / "mini").mkdir(parents=True)
    (tmp_path / "assets" / "mini" / "config.json").write_text("{}")
    return tmp_path / "assets"


def test_the_named_bundle_goes_before_the_variable_and_that_before_the_shipped(
    assets, monkeypatch
) -> None:
    assert find_bundle() == find_bundle("") == assets / "mini"
    monkeypatch.setenv(shipped.VARIABLE, "mine")
    assert find_bundle() == Path("mine")
    assert find_bundle("theirs") == find_bundle(Path("theirs")) == Path("theirs")


def test_the_shipped_one_goes_by_its_name_also_where_another_is_set(assets, monkeypatch) -> None:
    monkeypatch.setenv(shipped.VARIABLE, "mine")
    assert find_bundle("mini") == assets / "mini"
    monkeypatch.setenv(shipped.VARIABLE, "mini")
    assert find_bundle() == assets / "mini"


def test_a_folder_called_like_the_shipped_one_is_reached_as_a_path(assets) -> None:
    assert find_bundle("./mini") == find_bundle(Path("mini")) == Path("mini")


def test_a_copy_without_a_model_says_what_to_do(assets, capsys, monkeypatch, tmp_path) -> None:
    (assets / "mini" / "config.json").unlink()
    for words in (["voices"], ["voices", "--bundle", "mini"], ["synth", "Hi.", "-o", "o.wav"]):
        said = refused(capsys, *words)
        assert "no bundle" in said and "--bundle" in said and shipped.VARIABLE in said
        assert str(assets / "mini") in said and "cosyjax convert" in said
    with pytest.raises(InputError, match="no bundle"):
        cosyjax.load()


def test_commands_and_load_fall_back_to_the_shipped_one(
    assets, tiny_bundle, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(shipped, "_assets", lambda: tiny_bundle.parent)
    monkeypatch.setattr(shipped, "NAME", tiny_bundle.name)
    assert main(["voices"]) == 0
    assert "my/voice" in capsys.readouterr().out
    monkeypatch.setenv(shipped.VARIABLE, str(assets))
    assert "no bundle there" in refused(capsys, "voices")
    assert main(["voices", "--bundle", str(tiny_bundle)]) == 0


def test_the_package_names_the_model_among_its_files() -> None:
    import configparser

    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parent.parent.parent / "setup.cfg")
    assert setup["options.package_data"]["cosyjax"] == "assets/**/*"
