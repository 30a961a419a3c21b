"""What the launcher of a run's ranks does with the signals that it gets."""

import os
import signal
import subprocess
import sys

import pytest

from recipes.launch import _passing_signals_to

LIMIT_S = 30
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_a_wish_and_the_second_ends_the_ranks(second):
    with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE) as rank:
        try:
            assert rank.stdout.readline() == b"ready\n"
            with _passing_signals_to([rank]):
                os.kill(os.getpid(), signal.SIGTERM)
                with pytest.raises(subprocess.TimeoutExpired):
                    rank.wait(0.5)
                with pytest.raises(KeyboardInterrupt):
                    os.kill(os.getpid(), second)
                assert rank.wait(LIMIT_S) == -signal.SIGKILL
        finally:
            rank.kill()
