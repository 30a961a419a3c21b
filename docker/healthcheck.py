"""Exit 0 where the container is healthy: a server answers /healthz; what serves nothing is healthy while it runs.

    python3 healthcheck.py [COMMAND [key=value ...]]

Without words: those of process 1, the container's.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

TIMEOUT_S = 4.0
SERVERS = {"serve-reward": 8900, "serve-rollout": 8001}
"""Commands that serve, with the port where port= is not given: Hydra would take longer than the question."""
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def url(words: Sequence[str]) -> str | None:
    """Where the server of `crossthink WORDS` says whether it is alive; None for a command that serves nothing.

    Args:
        words: of a whole command line; what stands before the command's name is passed over.
    """
    served = next((place for place, word in enumerate(words) if word in SERVERS), None)
    if served is None:
        return None
    given = dict(word.partition("=")[::2] for word in words[served + 1 :])
    host = given.get("host", "127.0.0.1")
    host = ANYWHERE.get(host, host)
    port = given.get("port", str(SERVERS[words[served]]))
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/healthz"


def main(words: Sequence[str]) -> int:
    """The exit code: 0 healthy, 1 not."""
    address = url(words or Path("/proc/1/cmdline").read_bytes().decode().split("\0"))
    if address is None:
        return 0
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=TIMEOUT_S) as answer:
            return 0 if answer.status == 200 else 1
    except (urllib.error.URLError, TimeoutError) as error:
        print(f"{address}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
