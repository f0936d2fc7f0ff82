"""What pip is set up with is what we go by."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lib.core.errors import UserError
from lib.generalists.weights import pip_settings
from lib.generalists.weights.package_index import IndexConnection
from lib.generalists.weights.pip_settings import (
    PipSettings,
    public_index,
    read_pip_settings,
    settings_from,
    without_login,
)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pip of which nothing is set but the file that is returned."""
    for name in (
        "INDEX_URL",
        "EXTRA_INDEX_URL",
        "FIND_LINKS",
        "CERT",
        "TRUSTED_HOST",
        "CONFIG_FILE",
        "NO_INDEX",
        "PROXY",
    ):
        monkeypatch.delenv(f"PIP_{name}", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "pip.conf"


@pytest.mark.slow
def test_the_file_of_pip_is_read_and_the_environment_overrules_it(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own.write_text(
        "[global]\nindex-url = https://anna:it%27s@mirror.example/simple\nextra-index-url =\n  https://a.example\n"
        "  https://b.example\nproxy = http://proxy.example:3128\ncert = /etc/ca.pem\n"
        "trusted-host = old.example\n  127.0.0.1:8081\n[download]\nfind-links = /media/wheels\n[list]\nformat = json\n"
    )
    settings = read_pip_settings()
    assert settings.indexes == ("https://anna:it%27s@mirror.example/simple", "https://a.example", "https://b.example")
    assert settings.find_links == ("/media/wheels",)
    assert settings.proxy == "http://proxy.example:3128"
    assert settings.certificate == "/etc/ca.pem"
    assert settings.trusted == {"old.example", "127.0.0.1:8081"}
    monkeypatch.setenv("PIP_INDEX_URL", "https://new.example/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    assert read_pip_settings().indexes[0] == "https://new.example/simple"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert read_pip_settings().indexes == ()


def test_without_settings_it_is_the_public_index_and_without_pip_the_environment(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)  # then pip reads no file at all
    assert read_pip_settings() == PipSettings((public_index(),))
    monkeypatch.setattr(pip_settings.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    assert read_pip_settings().indexes == ("https://mirror.example/simple",)


def test_settings_that_pip_cannot_read_are_told_without_what_is_in_them(own: Path) -> None:
    own.write_text("[global\nindex-url = https://anna:secret@mirror.example\n")
    with pytest.raises(UserError, match="pip config list") as error:
        read_pip_settings()
    assert "secret" not in str(error.value)


def test_a_log_in_goes_to_its_own_server_only() -> None:
    settings = PipSettings(("https://anna:p%40ss@mirror.example/simple",))
    assert settings.login("https://mirror.example/files/x.whl") == ("anna", "p@ss")
    assert settings.login("https://MIRROR.example:443/files/x.whl") == ("anna", "p@ss")
    assert settings.login("http://mirror.example/files/x.whl") is None
    assert settings.login("https://mirror.example:8443/files/x.whl") is None
    assert settings.login("https://files.example/x.whl") is None
    assert without_login("https://anna:p%40ss@mirror.example/simple?x=1") == "https://mirror.example/simple?x=1"
    assert "p%40ss" not in without_login(settings.indexes[0])


def test_a_password_that_keyring_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "keyring"
    program.write_text(f'#!{sys.executable}\nimport sys\nprint("held" if sys.argv[1:] == {_ASKED!r} else "no")\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    values = {"index-url": "https://anna@mirror.example/simple"}
    assert settings_from(values).login("https://mirror.example/x") == ("anna", "")
    held = settings_from({**values, "keyring-provider": "subprocess"})
    assert held.login("https://mirror.example/x") == ("anna", "held")


_ASKED = ["get", "https://mirror.example/simple", "anna"]


def test_only_a_trusted_host_goes_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = PipSettings(trusted=frozenset({"inside.example", "other.example:8443"}), certificate="/etc/ca.pem")
    session = IndexConnection(settings)._session
    unchecked = [
        type(session.get_adapter(url)).__name__ == "_Unchecked"
        for url in (
            "https://inside.example/simple",
            "https://inside.example:8080/x",
            "https://other.example:8443/x",
            "https://other.example/x",
            "https://inside.example.evil/x",
        )
    ]
    assert unchecked == [True, True, True, False, False]
