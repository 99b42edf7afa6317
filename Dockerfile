#   docker build --target cpu  -t slm:cpu  .
#   docker build --target cuda -t slm:cuda .
#   docker run --rm -v "$PWD/runs:/workspace/runs" slm:cpu pipeline recipe=quickstart
#   docker run --rm --gpus all --shm-size 8g -v "$PWD/runs:/workspace/runs" slm:cuda pipeline recipe=pretrain_135m
#
# Both images run as user 1000, in /workspace, with the recipes inside the installed package. The packages lie in a layer
# of their own, which changes only with requirements.lock and pyproject.toml. Where pip's own configuration knows a
# CPU build of torch (docker build --build-arg PIP_EXTRA_INDEX_URL=...), the cpu image takes it and is gigabytes
# smaller. In the cuda image the CUDA libraries come with torch's packages; the base gives the driver's interface.

ARG CPU_BASE=python:3.12-slim-bookworm
ARG CUDA_BASE=nvidia/cuda:12.8.1-base-ubuntu24.04

# The packages of requirements.lock that the project needs, without the project.
FROM ${CPU_BASE} AS packages-cpu
ARG PIP_EXTRA_INDEX_URL
RUN python3 -m venv /opt/slm
WORKDIR /build
COPY pyproject.toml requirements.lock ./
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > wanted.txt \
 && /opt/slm/bin/pip install --no-cache-dir -c requirements.lock -r wanted.txt

FROM ${CUDA_BASE} AS packages-cuda
ARG PIP_EXTRA_INDEX_URL
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/slm
WORKDIR /build
COPY pyproject.toml requirements.lock ./
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > wanted.txt \
 && /opt/slm/bin/pip install --no-cache-dir -c requirements.lock -r wanted.txt

# The project as a wheel, recipes and their pieces included.
FROM ${CPU_BASE} AS wheel
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY recipes recipes
COPY configs configs
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM ${CPU_BASE} AS cpu
RUN useradd --create-home --uid 1000 slm \
 && install --directory --owner slm --group slm /workspace
COPY --from=packages-cpu /opt/slm /opt/slm
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist /opt/slm/bin/pip install --no-cache-dir --no-deps /dist/*.whl
ENV PATH=/opt/slm/bin:$PATH PYTHONUNBUFFERED=1
USER 1000
WORKDIR /workspace
ENTRYPOINT ["slm"]
CMD ["--help"]

# A C compiler and Python's headers are there because torch builds its compiled kernels where they run.
FROM ${CUDA_BASE} AS cuda
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
      gcc libc6-dev python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && if id ubuntu > /dev/null 2>&1; then userdel --remove ubuntu; fi \
 && useradd --create-home --uid 1000 slm \
 && install --directory --owner slm --group slm /workspace
COPY --from=packages-cuda /opt/slm /opt/slm
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist /opt/slm/bin/pip install --no-cache-dir --no-deps /dist/*.whl
ENV PATH=/opt/slm/bin:$PATH PYTHONUNBUFFERED=1
USER 1000
WORKDIR /workspace
ENTRYPOINT ["slm"]
CMD ["--help"]
