"""Runs an unmodified script of NeMo-Aligner 0.7.0: `python -m recipes.actors.aligner.run_script SCRIPT [ARGUMENTS…]`.

On a machine without CUDA its libraries are redirected to the CPU first; everywhere the known defects are worked round.
With several ranks: `torchrun --nproc_per_node N -m recipes.actors.aligner.run_script SCRIPT [ARGUMENTS…]`. The scripts
and their configs are in the folder examples/nlp/gpt of NeMo-Aligner's repository at v0.7.0; its wheel has neither.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from crossthink.errors import EXIT_DONE, EXIT_FAILED, ConfigError, UserError
from recipes.environment import check_environment

USAGE = "python -m recipes.actors.aligner.run_script SCRIPT [ARGUMENTS…]"
INTERRUPTED = 130
"""Exit code after SIGINT or SIGTERM, where the script does not end in order on them."""


def run_script(words: Sequence[str]) -> None:
    """Run a script as if Python had been called with it.

    It runs in this process's `__main__`, not as a module of its own: children that multiprocessing spawns import
    `__main__` anew, and find this module's guard there instead of the script's imports.

    Args:
        words: the script's path and its arguments.

    Raises:
        ConfigError: no script is named, or it is no file.
        UserError: this is not NeMo-Aligner's environment.
    """
    if not words or words[0].startswith("-"):
        raise ConfigError(f"which script? {USAGE}")
    script = Path(words[0]).resolve()
    if not script.is_file():
        raise ConfigError(
            f"{words[0]} is no file. NeMo-Aligner's scripts are in examples/nlp/gpt of its repository at v0.7.0."
        )
    check_environment("aligner")
    from recipes.actors.aligner.cpu import redirect_to_cpu
    from recipes.actors.aligner.defects import work_round_defects

    redirect_to_cpu()
    work_round_defects()
    # PyTriton stops its server and empties its cache on an interrupt, and on nothing else.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or it warns at every fork
    sys.argv = [str(script), *words[1:]]
    sys.path.insert(0, str(script.parent))
    namespace = vars(sys.modules["__main__"])
    namespace["__file__"] = str(script)
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), namespace)


def main(words: Sequence[str]) -> int:
    """The command. Returns its exit code.

    A script that fails does not come back: it leaves its PyTriton clients open, whose threads would keep the process
    alive for ever, so the process ends here.
    """
    try:
        run_script(words)
    except UserError as error:
        print(f"crossthink: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        _end(INTERRUPTED)
    except SystemExit as end:
        if end.code:
            _end(end.code if isinstance(end.code, int) else EXIT_FAILED)
    except Exception:
        traceback.print_exc()
        _end(EXIT_FAILED)
    return EXIT_DONE


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    # Called in a module of its own, as the script takes over the names of this one.
    sys.exit(importlib.import_module("recipes.actors.aligner.run_script").main(sys.argv[1:]))
