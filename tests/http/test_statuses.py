"""The table of statuses: each has one standing, and an error keeps it."""

from __future__ import annotations

import pickle

import pytest

from ai4os_data import errors
from ai4os_data.http import statuses
from ai4os_data.http.failures import error_for_status
from ai4os_data.http.statuses import Standing, passes, standing_of, status_of
from ai4os_data.locations.remotes import Remote

REMOTE = Remote("https://cloud.example/remote.php/dav/files/ann", "ann", "sesame-open-now")

PASSING = {408, 423, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524, 530, 599}
OF_ONE_FILE = {404, 409, 410, 412, 416}
CREDENTIALS = {401, 407}


@pytest.mark.parametrize("status", range(300, 600))
def test_each_status_has_its_standing(status: int) -> None:
    """An unknown status is lasting as a 3xx or 4xx, and passing as a 5xx."""
    standing = status_of(status).standing
    if status in CREDENTIALS:
        assert standing is Standing.CREDENTIALS
    elif status in OF_ONE_FILE:
        assert standing is Standing.OF_ONE_FILE
    elif status in PASSING or (status >= 500 and status not in statuses._TABLE):
        assert standing is Standing.PASSING
    else:
        assert standing is Standing.LASTING


@pytest.mark.parametrize("status", [*range(300, 309), *range(400, 432), 451, *range(500, 512), 520, 599])
def test_an_error_says_what_where_and_what_to_do(status: int) -> None:
    """It keeps its status across processes, so that its standing stays known; no secret is in it."""
    error = error_for_status(status, "PUT https://cloud.example/x", {"location": "/y"}, REMOTE, is_upload=True)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  it is our own
    assert type(again) is type(error)
    assert again.status == error.status == status
    assert standing_of(again) is status_of(status).standing
    assert str(status) in str(error)
    assert "sesame" not in str(error)
    if status_of(status).standing is Standing.LASTING:
        assert status_of(status).advice in str(error)
        assert status_of(status).advice


def test_errors_without_a_status_have_a_standing_too() -> None:
    """Each class of error passes by itself or does not."""
    assert passes(errors.IntegrityError("a bit"))
    assert passes(errors.StorageGoneError("the mount"))
    assert not passes(errors.PermissionDeniedError("a directory"))
    assert not passes(errors.NameRefusedError("a name"))
    assert not passes(ValueError("a bug"))
    assert standing_of(errors.AuthenticationError("a password")) is Standing.CREDENTIALS
