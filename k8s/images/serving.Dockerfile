# syntax=docker/dockerfile:1
# Triton (that of the nvidia-pytriton wheel, which the tests run) and the served model. torch brings CUDA's libraries; without
# a GPU the same image runs on processors. Build from the repository's root: `make images`.
ARG PYTHON_VERSION=3.11
ARG DEBIAN_RELEASE=bookworm

FROM python:${PYTHON_VERSION}-slim-${DEBIAN_RELEASE} AS build
# Where torch comes from; https://download.pytorch.org/whl/cpu makes an image without CUDA that is gigabytes smaller.
ARG TORCH_INDEX=https://pypi.org/simple
WORKDIR /src
RUN python -m venv /opt/get3d
ENV PATH=/opt/get3d/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements.lock ./
COPY k8s/images/requirements ./k8s/images/requirements
RUN pip install --constraint requirements.lock --index-url "${TORCH_INDEX}" --extra-index-url https://pypi.org/simple torch \
    && pip install --constraint requirements.lock --requirement k8s/images/requirements/serving.txt setuptools
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
LABEL org.opencontainers.image.title="get3d serving" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 1000 get3d && useradd --uid 1000 --gid 1000 --create-home get3d
COPY --from=build /opt/get3d /opt/get3d
ENV PATH=/opt/get3d/bin:$PATH HOME=/home/get3d NUMBA_CACHE_DIR=/tmp/numba PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /home/get3d
EXPOSE 8000 8001 8002
ENTRYPOINT ["get3d", "serve"]
CMD ["--repository=/models", "--host=0.0.0.0", "--wait-for-deploy", "--log=-"]
