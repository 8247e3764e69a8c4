"""What the forks of tests must not do to the process of the tests."""

import atexit

from forked import nearfar
from killable import Command


def test_forks_run_no_exit_functions_of_their_parent(tmp_path):
    sign = tmp_path / "sign"
    atexit.register(sign.touch)
    try:
        assert nearfar("fit", "no-such-recipe").returncode == 2
        assert Command("fit", "no-such-recipe", ranks=2).wait() == [2, 2]
    finally:
        atexit.unregister(sign.touch)
    assert not sign.exists()
