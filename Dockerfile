# The server as an image, for `docker build`, `podman build` and `buildah bud`; see docs/how-to/containers.md.
#
#   VARIANT          cpu (default) or cuda: which build of torch
#   BASE             an image with Python 3.10, 3.11 or 3.12 as `python3`, with venv
#   PIP_INDEX_URL    the package index, if it is not pip's own
#   TORCH_INDEX_URL  where the CPU build of torch comes from; empty: from the package index
ARG BASE=docker.io/library/python:3.12-slim-bookworm

# --- The app as a wheel -----------------------------------------------------------------------------------------------
FROM ${BASE} AS wheel
ARG PIP_INDEX_URL
WORKDIR /source
COPY pyproject.toml README.md LICENSE requirements.txt ./
COPY apps apps
RUN python3 -m venv /build \
    && /build/bin/python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

# --- The server -------------------------------------------------------------------------------------------------------
FROM ${BASE}
ARG VARIANT=cpu
ARG PIP_INDEX_URL
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ENV PATH=/opt/semisam/bin:${PATH}

# Same order as `make install`: sam2 asks for torch while it builds, unless pip does not isolate its build.
COPY requirements.txt /opt/
RUN case "${VARIANT}" in cpu|cuda) ;; *) echo "VARIANT is cpu or cuda, not ${VARIANT}" >&2; exit 1 ;; esac \
    && python3 -m venv /opt/semisam \
    && pinned() { grep -o "^$1==[^ ;]*" /opt/requirements.txt; } \
    && install() { python -m pip install --no-cache-dir --disable-pip-version-check "$@"; } \
    && install -q "$(pinned setuptools)" wheel==0.48.0 \
    && if [ "${VARIANT}" = cpu ] && [ -n "${TORCH_INDEX_URL}" ]; then \
           install -q --no-deps --index-url "${TORCH_INDEX_URL}" "$(pinned torch)" "$(pinned torchvision)"; fi \
    && SAM2_BUILD_CUDA=0 install -q --no-deps --no-build-isolation "$(pinned sam2)" \
    && install -q -r /opt/requirements.txt

# Networks, cache and study lie in volumes, so that the image itself can be read-only. MONAI Label wants its folders
# inside the app: they are links into the volumes.
COPY --from=wheel /wheel /opt/wheel
RUN python -m pip install --no-cache-dir --disable-pip-version-check --no-deps /opt/wheel/*.whl \
    && mkdir -p /var/lib/semisam/study /var/lib/semisam/models /var/lib/semisam/cache \
    && app="$(semisam path)" \
    && ln -s /var/lib/semisam/models "${app}/model" \
    && ln -s /var/lib/semisam/cache "${app}/logs" \
    && ln -s /var/lib/semisam/cache "${app}/bin" \
    && echo 'semisam:x:10001:' >> /etc/group \
    && echo 'semisam:x:10001:10001:semisam:/var/lib/semisam/cache:/usr/sbin/nologin' >> /etc/passwd \
    && chown 10001:10001 /var/lib/semisam/study /var/lib/semisam/models /var/lib/semisam/cache \
    && chmod 700 /var/lib/semisam/study /var/lib/semisam/models /var/lib/semisam/cache

# Uploads are put aside in TMPDIR: on the disk of the cache, not in memory.
ENV HOME=/var/lib/semisam/cache \
    TMPDIR=/var/lib/semisam/cache \
    USER=semisam \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
LABEL org.opencontainers.image.title=semisam \
      org.opencontainers.image.description="One outlined scan in, a segmented study out: a MONAI Label server app" \
      org.opencontainers.image.licenses=Apache-2.0
USER 10001:10001
WORKDIR /var/lib/semisam/cache
VOLUME ["/var/lib/semisam/study", "/var/lib/semisam/models", "/var/lib/semisam/cache"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=120s --interval=30s --timeout=10s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/semisam/health', timeout=9)"]
ENTRYPOINT ["semisam"]
CMD ["serve", "--studies", "/var/lib/semisam/study", "--host", "0.0.0.0", "--port", "8000"]
