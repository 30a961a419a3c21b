#!/bin/sh
# `docker run IMAGE COMMAND …` is `crossthink COMMAND …`.
set -eu
# NVIDIA's images set up CUDA's forward compatibility in an entry point of their own.
nvidia=/opt/nvidia/nvidia_entrypoint.sh
if [ -x "$nvidia" ]; then
    exec "$nvidia" crossthink "$@"
fi
exec crossthink "$@"
