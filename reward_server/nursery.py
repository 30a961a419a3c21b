"""The process that workers are forked from: it has imported everything, so a worker costs milliseconds, not a second.

Started by `reward_server.pool` as `python -m reward_server.nursery --parent PID --control FD`. It answers nothing
itself, runs one thread, and dies with the server; its workers die with it. On the control socket it is sent a byte
with a socket attached, forks a worker that serves this socket, and replies with the worker's process id as a line.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import socket
import sys

from crossthink.procs import die_with_parent


def main() -> None:
    """Fork workers until the control socket closes."""
    parser = argparse.ArgumentParser(description="Where the reward server's math workers come from (started by it).")
    parser.add_argument("--parent", type=int, required=True, help="process id of the server")
    parser.add_argument("--control", type=int, required=True, help="file descriptor of the control socket")
    parser.add_argument("--memory-mb", type=int, required=True, help="MiB that one question may take")
    parser.add_argument("--warm-up", action="store_true", help="build the parser's tables first")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then closes our socket
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for workers: the kernel clears them away
    os.dup2(2, 1)  # whatever a library prints goes to stderr

    # The slow imports belong after die_with_parent.
    from reward_server.scoring.warm_up import warm_up
    from reward_server.worker import serve

    if arguments.warm_up:
        warm_up()
    gc.collect()
    control = socket.socket(fileno=arguments.control)
    control.sendall(b"ready\n")
    while True:
        word, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not word:
            return
        nursery, child = os.getpid(), os.fork()
        if not child:
            control.close()
            _work(nursery, descriptors[0], arguments.memory_mb, serve)
        os.close(descriptors[0])
        control.sendall(b"%d\n" % child)


def _work(nursery: int, descriptor: int, memory_mb: int, serve) -> None:
    code = 1
    try:
        die_with_parent(nursery)
        serve(socket.socket(fileno=descriptor), memory_mb)
        code = 0
    except (BrokenPipeError, ConnectionResetError):
        code = 0  # the pool has gone away, and so do we
    except BaseException as error:  # a forked child must never run on into the nursery's loop
        print(f"math worker: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
