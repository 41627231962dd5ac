import json

import pytest

from ctxcomp import CtxcompError, MissingDependencyError
from ctxcomp.optional import require


def test_an_installed_module_is_imported():
    assert require("json", extra="x") is json
    assert require("json.decoder", extra="x").JSONDecoder is json.JSONDecoder


def test_a_missing_package_says_how_to_install_it():
    with pytest.raises(
        MissingDependencyError, match=r"'no_such_package' .*`pip install 'ctxcomp\[langchain\]'`"
    ) as caught:
        require("no_such_package.documents", extra="langchain")
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, CtxcompError)


def test_an_error_inside_an_installed_package_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package") as caught:
        require("half_there", extra="x")
    assert not isinstance(caught.value, CtxcompError)
    with pytest.raises(ModuleNotFoundError, match=r"json\.nothing") as caught:
        require("json.nothing", extra="x")
    assert not isinstance(caught.value, CtxcompError)
