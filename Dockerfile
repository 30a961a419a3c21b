# syntax=docker/dockerfile:1
# Four images of the same package (docs/containers.md):
#
#   docker build --target cpu -t crossthink:cpu .             any machine: demo, data, both servers, training on a CPU
#   docker build --target megatron -t crossthink:megatron .   training on GPUs with actor=megatron
#   docker build --target nemo -t crossthink:nemo .           training on GPUs with actor=aligner
#   docker build --target rollout -t crossthink:rollout .     serve-rollout engine=trtllm
#
# The three GPU images keep what NVIDIA built into theirs (torch, Transformer Engine, Apex, TensorRT-LLM): packages go
# into a virtual environment on top, under pins that docker/image_pins.py reads from the image. They have been checked as
# far as that goes without a GPU (docker/check_gpu_targets.py), and not been built.

ARG CPU_BASE=docker.io/library/python:3.11-slim-bookworm
# What Megatron-LM's own CI runs at core_v0.16.1 (docker/.ngc_version.dev). Python 3.12, torch 2.10, CUDA 13.0.
ARG MEGATRON_BASE=nvcr.io/nvidia/pytorch:25.11-py3
# For its torch 2.6, with the Apex and Transformer Engine that are built for it. Python 3.12.
ARG NEMO_BASE=nvcr.io/nvidia/nemo:25.02
# The release that docs/trtllm.md binds. Python 3.12, torch 2.12.
ARG ROLLOUT_BASE=nvcr.io/nvidia/tensorrt-llm/release:1.3.0rc21


FROM ${CPU_BASE} AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY crossthink crossthink
COPY conf conf
COPY data_prep data_prep
COPY reward_server reward_server
COPY recipes recipes
COPY slurm slurm
RUN python3 -m venv /tools && /tools/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /dist .


# Packages before sources: a change of the code does not install them again.
FROM ${CPU_BASE} AS cpu-packages
# PyPI's torch brings CUDA's libraries along, several GB.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /build
COPY pyproject.toml constraints.txt docker/project_requirements.py ./
RUN python3 -m venv /opt/crossthink \
    && python3 project_requirements.py pyproject.toml --extra train --extra eval --extra synth > requirements.txt \
    && /opt/crossthink/bin/pip install --no-cache-dir --no-deps --constraint constraints.txt \
        ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch \
    && /opt/crossthink/bin/pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt


FROM ${CPU_BASE} AS cpu
# 1777: any user id may work there (`docker run --user`), so that what is written belongs to whoever asked for it.
RUN useradd --create-home --uid 10001 --shell /bin/sh crossthink && install --directory --mode 1777 /work /work/runs
COPY --from=cpu-packages /opt/crossthink /opt/crossthink
# The last layers are the small ones: a change of the code sends no package to a registry again.
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    /opt/crossthink/bin/pip install --no-cache-dir --no-deps /dist/*.whl
COPY docker/entrypoint.sh docker/healthcheck.py /usr/local/lib/crossthink/
ENV PATH=/opt/crossthink/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    USER=crossthink \
    MPLCONFIGDIR=/tmp/matplotlib
# Last, as they differ from build to build.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="crossthink-cpu" \
    org.opencontainers.image.description="CrossThink on a CPU: demo, data preparation, reward and rollout server, training" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /work
EXPOSE 8900 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "/usr/local/lib/crossthink/healthcheck.py"]
ENTRYPOINT ["sh", "/usr/local/lib/crossthink/entrypoint.sh"]
CMD ["--help"]


FROM ${MEGATRON_BASE} AS megatron
# The base holds all of pip to its own list, which stands for packages that it does not have too.
ENV PIP_CONSTRAINT=""
# hadolint ignore=DL3002
USER 0
RUN useradd --create-home --uid 10001 --shell /bin/sh crossthink && install --directory --mode 1777 /work /work/runs
WORKDIR /build
COPY pyproject.toml constraints.txt docker/project_requirements.py docker/image_pins.py ./
RUN python3 image_pins.py constraints.txt --need torch --need transformer-engine > pins.txt \
    && python3 project_requirements.py pyproject.toml --extra train --extra eval --without torch --without megatron-core > requirements.txt \
    && python3 -m venv --without-pip --system-site-packages /opt/crossthink \
    && /opt/crossthink/bin/python -m pip install --no-cache-dir --constraint pins.txt --requirement requirements.txt \
    && /opt/crossthink/bin/python -m pip install --no-cache-dir --no-deps --constraint constraints.txt megatron-core
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    /opt/crossthink/bin/python -m pip install --no-cache-dir --no-deps /dist/*.whl
COPY docker/entrypoint.sh docker/healthcheck.py benchmarks/gpu_check.py /usr/local/lib/crossthink/
ENV PATH=/opt/crossthink/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    USER=crossthink \
    MPLCONFIGDIR=/tmp/matplotlib
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="crossthink-megatron" \
    org.opencontainers.image.description="CrossThink on GPUs: megatron-core and Transformer Engine on NVIDIA's PyTorch image" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /work
EXPOSE 8900 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "/usr/local/lib/crossthink/healthcheck.py"]
ENTRYPOINT ["sh", "/usr/local/lib/crossthink/entrypoint.sh"]
CMD ["--help"]


FROM ${NEMO_BASE} AS nemo
ENV PIP_CONSTRAINT=""
# hadolint ignore=DL3002
USER 0
RUN useradd --create-home --uid 10001 --shell /bin/sh crossthink && install --directory --mode 1777 /work /work/runs
WORKDIR /build
COPY requirements/nemo.lock docker/project_requirements.py docker/image_pins.py ./
# The image's NeMo, megatron-core and NeMo-Aligner are newer than those that the lock names and the tests run with; its
# torch, Apex and Transformer Engine stay.
RUN python3 image_pins.py nemo.lock --need torch --need apex --need transformer-engine > pins.txt \
    && python3 -m venv --without-pip --system-site-packages /opt/crossthink \
    && /opt/crossthink/bin/python -m pip install --no-cache-dir --no-deps --requirement pins.txt
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    /opt/crossthink/bin/python -m pip install --no-cache-dir --no-deps /dist/*.whl
COPY docker/entrypoint.sh docker/healthcheck.py benchmarks/gpu_check.py /usr/local/lib/crossthink/
ENV PATH=/opt/crossthink/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    USER=crossthink \
    MPLCONFIGDIR=/tmp/matplotlib
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="crossthink-nemo" \
    org.opencontainers.image.description="CrossThink on GPUs: NeMo-Aligner 0.7.0 on NVIDIA's NeMo image" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /work
EXPOSE 8900
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "/usr/local/lib/crossthink/healthcheck.py"]
ENTRYPOINT ["sh", "/usr/local/lib/crossthink/entrypoint.sh"]
CMD ["--help"]


FROM ${ROLLOUT_BASE} AS rollout
ENV PIP_CONSTRAINT=""
# hadolint ignore=DL3002
USER 0
RUN useradd --create-home --uid 10001 --shell /bin/sh crossthink && install --directory --mode 1777 /work /work/runs
WORKDIR /build
COPY pyproject.toml constraints.txt docker/project_requirements.py docker/image_pins.py ./
# Everything that TensorRT-LLM came with stays. Left out is what preparing data and judging need, and serving does not.
# Ray: the version that NeMo-RL locks beside this release (7ea279ab, uv.lock). megatron-core is for gpu_check.py alone.
RUN python3 image_pins.py constraints.txt --all --need torch --need tensorrt-llm > pins.txt \
    && python3 project_requirements.py pyproject.toml --without datasets --without math-verify --without pyarrow \
        --without rensa > requirements.txt \
    && python3 -m venv --without-pip --system-site-packages /opt/crossthink \
    && /opt/crossthink/bin/python -m pip install --no-cache-dir --constraint pins.txt --requirement requirements.txt \
        jinja2 safetensors xxhash "ray[default]==2.56.1" \
    && /opt/crossthink/bin/python -m pip install --no-cache-dir --no-deps --constraint constraints.txt megatron-core
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    /opt/crossthink/bin/python -m pip install --no-cache-dir --no-deps /dist/*.whl
COPY docker/entrypoint.sh docker/healthcheck.py benchmarks/gpu_check.py \
    benchmarks/gpu_rollout.py /usr/local/lib/crossthink/
ENV PATH=/opt/crossthink/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    USER=crossthink \
    MPLCONFIGDIR=/tmp/matplotlib
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="crossthink-rollout" \
    org.opencontainers.image.description="CrossThink's rollout server with TensorRT-LLM's engine" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /work
EXPOSE 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
    CMD ["python3", "/usr/local/lib/crossthink/healthcheck.py"]
ENTRYPOINT ["sh", "/usr/local/lib/crossthink/entrypoint.sh"]
CMD ["--help"]
