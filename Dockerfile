# One image for every process: docker build -t taskflow . ; what a container does is its command (see compose.yaml).
FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml setup.cfg constraints.txt README.md LICENSE ./
COPY taskflow taskflow
COPY web web
RUN python -m venv /build \
    && /build/bin/pip install --no-cache-dir build \
    && /build/bin/python -m build --wheel --outdir /dist \
    && python -m venv /opt/taskflow \
    && wheel="$(echo /dist/*.whl)" \
    && /opt/taskflow/bin/pip install --no-cache-dir -c constraints.txt "${wheel}[hetzner,clouds,ssh]"

FROM python:3.12-slim-bookworm
# git: local nodes clone with it. The client of ssh: repositories that are reached by it.
RUN apt-get update \
    && apt-get install -y --no-install-recommends git openssh-client \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --create-home --home-dir /var/lib/taskflow taskflow \
    && chmod 0700 /var/lib/taskflow
COPY --from=build /opt/taskflow /opt/taskflow
ENV PATH=/opt/taskflow/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TASKFLOW_DATA_DIR=/var/lib/taskflow
USER 10001:10001
WORKDIR /var/lib/taskflow
VOLUME /var/lib/taskflow
EXPOSE 8750
CMD ["taskflow", "up"]
