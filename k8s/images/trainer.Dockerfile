# syntax=docker/dockerfile:1
# All steps of the pipeline and the training jobs: torch, and with CUDA=1 nvdiffrast and kaolin from source. nvdiffrast is licensed for
# non-commercial use; CUDA=0 leaves both out (training then runs on processors). Build from the repository's root: `make images`.
ARG PYTHON_VERSION=3.11
ARG DEBIAN_RELEASE=bookworm
# The major version has to be that of torch's CUDA. Ubuntu 22.04's glibc is older than bookworm's, so what is built there runs here.
ARG CUDA_VERSION=13.0.2
ARG UV_VERSION=0.9.9
ARG CUDA=1

FROM ghcr.io/astral-sh/uv:${UV_VERSION} AS uv

FROM python:${PYTHON_VERSION}-slim-${DEBIAN_RELEASE} AS build
ARG TORCH_INDEX=https://pypi.org/simple
WORKDIR /src
RUN python -m venv /opt/get3d
ENV PATH=/opt/get3d/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements.lock ./
COPY k8s/images/requirements ./k8s/images/requirements
RUN pip install --constraint requirements.lock --index-url "${TORCH_INDEX}" --extra-index-url https://pypi.org/simple torch \
    && pip install --constraint requirements.lock --requirement k8s/images/requirements/trainer.txt setuptools

# Wheels of the two CUDA extensions; nothing else of the compiler reaches the image.
FROM nvidia/cuda:${CUDA_VERSION}-devel-ubuntu22.04 AS extensions-1
ARG PYTHON_VERSION
# v0.4.0 and v0.18.0
ARG NVDIFFRAST_COMMIT=253ac4fcea7de5f396371124af597e6cc957bfae
ARG KAOLIN_COMMIT=06ffb7d955ca26b608c60a9e862327c56b226921
# Ampere (A100, A10), Ada and Hopper; newer ones compile from the last one's PTX.
ARG TORCH_CUDA_ARCH_LIST="8.0;8.6;8.9;9.0+PTX"
ARG MAX_JOBS=8
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential ca-certificates git \
    && rm -rf /var/lib/apt/lists/*
COPY --from=uv /uv /usr/local/bin/uv
WORKDIR /src
COPY requirements.lock ./
# Cython and setuptools as kaolin's build asks for them.
RUN uv venv --python "${PYTHON_VERSION}" /opt/build \
    && grep -E '^(torch|numpy)==' requirements.lock > pins.txt \
    && uv pip install --python /opt/build/bin/python --requirement pins.txt \
       cython==0.29.37 setuptools==75.8.2 wheel ninja pip
ENV PATH=/opt/build/bin:$PATH FORCE_CUDA=1 IGNORE_TORCH_VER=1 \
    TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST} MAX_JOBS=${MAX_JOBS} \
    CPATH=/usr/local/cuda/include/cccl
# A commit by its hash is content by its hash; `git fetch` of it needs no history.
RUN git init --quiet nvdiffrast \
    && git -C nvdiffrast fetch --quiet --depth 1 https://github.com/NVlabs/nvdiffrast "${NVDIFFRAST_COMMIT}" \
    && git -C nvdiffrast checkout --quiet FETCH_HEAD \
    && pip wheel --no-deps --no-build-isolation --wheel-dir /wheels ./nvdiffrast
RUN git init --quiet kaolin \
    && git -C kaolin fetch --quiet --depth 1 https://github.com/NVIDIAGameWorks/kaolin "${KAOLIN_COMMIT}" \
    && git -C kaolin checkout --quiet FETCH_HEAD \
    && pip wheel --no-deps --no-build-isolation --wheel-dir /wheels ./kaolin

FROM python:${PYTHON_VERSION}-slim-${DEBIAN_RELEASE} AS extensions-0
RUN mkdir /wheels

# hadolint ignore=DL3006
FROM extensions-${CUDA} AS extensions

FROM build AS whole
COPY --from=extensions /wheels /wheels
# Nothing to install with CUDA=0.
RUN if [ -n "$(ls /wheels)" ]; then \
      pip install --constraint requirements.lock --requirement k8s/images/requirements/kaolin.txt \
      && pip install --no-deps /wheels/*.whl; \
    fi
COPY pyproject.toml README.md LICENSE ./
COPY get3d_model ./get3d_model
COPY monitoring ./monitoring
COPY serving ./serving
COPY components ./components
COPY pipelines ./pipelines
RUN pip install --no-deps --no-build-isolation .

FROM python:${PYTHON_VERSION}-slim-${DEBIAN_RELEASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="get3d trainer" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# git and ssh: data sets by pointer. gcc: torch.compile and Triton's kernels compile small launchers.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc git libc6-dev openssh-client \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 get3d \
    && useradd --uid 1000 --gid 1000 --create-home get3d
COPY --from=whole /opt/get3d /opt/get3d
ENV PATH=/opt/get3d/bin:$PATH HOME=/home/get3d NUMBA_CACHE_DIR=/tmp/numba PYTHONUNBUFFERED=1 GET3D_COMMIT=${REVISION} \
    DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR=/tmp/dvc
USER 1000:1000
WORKDIR /home/get3d
CMD ["get3d", "--help"]
