"""One rank of NeMo-Aligner's critic server: `python -m recipes.critic_server RUN_FOLDER`, started by `own_critic`."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import torch

from conf.train import TrainConfig
from crossthink.errors import EXIT_DONE, EXIT_FAILED, UserError
from crossthink.procs import PARENT, die_with_parent
from recipes.own_critic import GRACE_S, POLL_S, PORT
from recipes.quiet import quiet_libraries
from recipes.rank import critic_adam
from recipes.rl.losses import ValueLoss
from recipes.rl.step import as_engine_loss
from recipes.run_folder import model_folder, read_config

# Between two requests a whole rollout may lie, and a rank that waits for the next one must not give up.
IDLE_S = 30 * 86400.0


def serve(config: TrainConfig, port: int) -> None:
    """Build this rank's part of the critic and serve it until Triton ends.

    Args:
        config: the run's.
        port: of the HTTP server on rank 0.

    Raises:
        UserError: what a user can mend.
    """
    from recipes.actors.stack import prepare_stack

    quiet_libraries()
    prepare_stack()
    from recipes.actors.aligner.critic_model import ValueEngine
    from recipes.actors.aligner.critic_server import CriticServer
    from recipes.actors.mcore.mesh import join_mesh

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    engine = ValueEngine(
        model_folder(config),
        join_mesh(config.actor.tensor_parallel, config.actor.pipeline_parallel, IDLE_S),
        critic_adam(config),
        micro_batch_tokens=config.micro_batch_tokens,
        seed=config.seed,
        settings=config.actor,
    )
    CriticServer(engine, as_engine_loss(ValueLoss(config.algorithm.value_clip)), port).run_server()


def main() -> int:
    """Entry of a rank process. Returns the exit code: 0 where it was told to end."""
    parent = int(os.environ[PARENT])
    asked = threading.Event()
    if int(os.environ["RANK"]) == 0:
        # Triton's processes and files outlive a rank that is killed, so this one ends in order with its parent.
        _interrupt_when_told(asked, parent)
    else:
        die_with_parent(parent)
    config = read_config(Path(sys.argv[1]))
    assert config is not None
    try:
        serve(config, int(os.environ[PORT]))
    except KeyboardInterrupt:
        pass
    except UserError as error:
        print(f"crossthink: {error}", file=sys.stderr)
    except Exception:
        traceback.print_exc()
    if asked.is_set():
        shutil.rmtree(os.environ["PYTRITON_HOME"], ignore_errors=True)
        return EXIT_DONE
    print("crossthink: the critic's Triton has ended, or never ran.", file=sys.stderr)
    return EXIT_FAILED


def _interrupt_when_told(asked: threading.Event, parent: int) -> None:
    """On SIGTERM and at the parent's end raise KeyboardInterrupt in the main thread, on which PyTriton stops Triton."""

    def interrupt(*_: object) -> None:
        if not asked.is_set():
            asked.set()
            raise KeyboardInterrupt

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_S)
        main = threading.main_thread().ident
        assert main is not None  # it runs
        signal.pthread_kill(main, signal.SIGTERM)
        time.sleep(GRACE_S)
        os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGTERM, interrupt)
    threading.Thread(target=watch, name="parent", daemon=True).start()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of PyTriton's may still wait for a request
