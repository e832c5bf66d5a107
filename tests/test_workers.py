"""How conftest.py shares the tests between two workers."""

import os
import pathlib

import pytest


@pytest.mark.parametrize("number", range(8))
def test_tests_of_one_file_have_one_worker(number, request):
    """Those of a group, as of one costly fixture: no other worker has noted that it ran one."""
    if not hasattr(request.config, "workerinput"):
        pytest.skip("there are no workers: pytest runs without --numprocesses")
    noted = pathlib.Path(request.config.workerinput["groups"]).parent / "noted"
    noted.mkdir(exist_ok=True)
    (noted / os.environ["PYTEST_XDIST_WORKER"]).touch()
    assert len(list(noted.iterdir())) == 1
