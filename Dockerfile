# One image for API, worker, beat and migrate: `docker run saga-orchestrator worker`.
#
# The tag follows Python 3.11's and Debian 13's security fixes. For builds that can be repeated to the byte, add
# the digest of the day: --build-arg PYTHON_TAG=3.11-slim-trixie@sha256:…
ARG PYTHON_TAG=3.11-slim-trixie

FROM python:${PYTHON_TAG} AS build
ARG UV_VERSION=0.13.9
# never: the interpreter is the base image's, at the same path in both stages, or the copied environment would not
# start. Byte code is compiled here because the running user cannot write any.
ENV UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1
RUN pip install --no-cache-dir --root-user-action=ignore "uv==${UV_VERSION}"
WORKDIR /src

# Dependencies alone first: this layer is built again only when the lock file changes. Wheels only, since a source
# distribution would run its own code here and want a compiler.
COPY requirements-image.lock ./
RUN uv venv /opt/saga \
 && uv pip install --python /opt/saga --require-hashes --only-binary :all: -r requirements-image.lock

# requirements.lock pins the build backend by hash, as requirements-image.lock pins what runs.
COPY pyproject.toml README.md LICENSE requirements.lock ./
COPY app app
COPY workers workers
COPY saga_participant saga_participant
COPY migrations migrations
RUN uv build --wheel --build-constraints requirements.lock --require-hashes --out-dir /dist . \
 && uv pip install --python /opt/saga --no-deps /dist/*.whl


FROM python:${PYTHON_TAG}
# For a release: --build-arg VERSION=1.2.3 --build-arg REVISION="$(git rev-parse HEAD)"
ARG VERSION=local
ARG REVISION=unknown
LABEL org.opencontainers.image.title="saga-orchestrator" \
      org.opencontainers.image.description="Runs business processes that cross services, and undoes them when they fail." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# The base image's own installers have no work here: nothing is installed into a running container.
RUN python -m pip uninstall --yes --root-user-action=ignore setuptools wheel pip \
 && groupadd --gid 10001 saga \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin saga
# Owned by root: the service cannot change its own code.
COPY --from=build /opt/saga /opt/saga
# UNBUFFERED: the last lines before a crash are the ones that matter.
ENV PATH=/opt/saga/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# The one place that the service may write to; the compose file puts it in memory.
WORKDIR /tmp

# A number, so that Kubernetes' runAsNonRoot can see that it is not root.
USER 10001:10001
EXPOSE 8000 9101
# SIGTERM is a clean end for every command: the API finishes its requests, a worker its attempts.
STOPSIGNAL SIGTERM
# No HEALTHCHECK: one image plays four parts, and a check of the API's port would call every worker sick. The
# compose file gives each part its own.
ENTRYPOINT ["saga"]
# In a container loopback reaches nobody.
CMD ["api", "--host", "0.0.0.0"]
