# The environment of requirements.lock, with rsync and LEUK_ROOT for the Kubernetes profile, JupyterLab as the command.
#   docker build -t leuk .                                      with the libraries for GPUs
#   docker build -t leuk --build-arg CPU=1 .                    without them
#   docker build -t leuk --build-arg BASE=python@sha256:… .     on a base that does not change (SECURITY.md)
#   docker run --rm -p 8888:8888 leuk                           JupyterLab
#   docker run --rm -v "$PWD/results:/project/results" leuk leuk run --profile smoke
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ARG CPU=
ARG NB_USER=leuk
ARG NB_UID=1000

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends git make rsync \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid "$NB_UID" "$NB_USER" \
    && mkdir /project \
    && chown "$NB_UID" /project /opt

USER $NB_UID
WORKDIR /project
COPY --chown=$NB_UID . .
# Outside of the project, over which Kubernetes mounts a volume.
RUN make env VENV=/opt/venv CPU="$CPU" PYTHON=python3 && rm -rf "$HOME/.cache"

ENV PATH=/opt/venv/bin:$PATH LEUK_ROOT=/project
EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser"]
