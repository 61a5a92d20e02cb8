"""Errors can be sent to other processes, and are told apart by what users may catch."""

from __future__ import annotations

import copy
import pickle

import pytest

from isoreg import errors
from isoreg.errors import IsoregError

CLASSES = [value for value in vars(errors).values() if isinstance(value, type)]
KINDS = [kind for kind in CLASSES if issubclass(kind, IsoregError)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("again", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_an_error_that_is_sent_elsewhere_says_the_same(kind: type[IsoregError], again) -> None:
    error = kind("they are none.")
    error.caller = "distances"
    found = again(error)
    assert type(found) is kind
    assert str(found) == "distances: they are none."
    assert found.args == ("they are none.",)


def test_a_module_that_another_one_lacks_is_its_own_error(tmp_path, monkeypatch) -> None:
    (tmp_path / "has_none.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package") as caught:
        errors.import_extra("has_none", "plots")
    assert not isinstance(caught.value, IsoregError)
    with pytest.raises(errors.MissingExtraError, match=r"^no_such_package is not installed"):
        errors.import_extra("no_such_package.inside", "plots")


def test_an_integer_may_be_either_end_of_its_range_and_nothing_beyond() -> None:
    for value in (2, 5):
        errors.check_integer("count", value, 2, 5)
    for value in (1, 6, 2.0, True):
        with pytest.raises(errors.InputError, match=r"count must be .*got"):
            errors.check_integer("count", value, 2, 5)
