# syntax=docker/dockerfile:1
# The light steps of the pipeline, and `get3d pipeline submit`: no torch, no CUDA. Build from the repository's root: `make images`.
ARG PYTHON_VERSION=3.11
ARG DEBIAN_RELEASE=bookworm

FROM python:${PYTHON_VERSION}-slim-${DEBIAN_RELEASE} AS build
WORKDIR /src
RUN python -m venv /opt/get3d
ENV PATH=/opt/get3d/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# Libraries first: they change less often than our own code.
COPY requirements.lock ./
COPY k8s/images/requirements ./k8s/images/requirements
RUN pip install --constraint requirements.lock --requirement k8s/images/requirements/pipeline.txt setuptools
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
LABEL org.opencontainers.image.title="get3d pipeline" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# git and ssh: recording versions. Debian's versions are those of the base image's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git openssh-client \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 get3d \
    && useradd --uid 1000 --gid 1000 --create-home get3d
COPY --from=build /opt/get3d /opt/get3d
ENV PATH=/opt/get3d/bin:$PATH HOME=/home/get3d PYTHONUNBUFFERED=1 DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR=/tmp/dvc
USER 1000:1000
WORKDIR /home/get3d
CMD ["get3d", "--help"]
