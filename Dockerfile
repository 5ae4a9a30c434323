# The service alone: no torch, no compiler, not root.
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md CHANGELOG.md LICENSE ./
COPY agent agent
COPY db db
COPY server server
COPY web web
RUN python -m venv /opt/holter \
 && /opt/holter/bin/pip install --no-cache-dir --constraint constraints.txt ".[server]"

FROM python:3.12-slim
LABEL org.opencontainers.image.title="Holter" \
      org.opencontainers.image.description="A live training monitor" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 holter \
 && useradd --uid 10001 --gid holter --home-dir /data --no-create-home --shell /usr/sbin/nologin holter \
 && install -d -o holter -g holter /data
COPY --from=build /opt/holter /opt/holter
ENV PATH=/opt/holter/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOLTER_HOST=0.0.0.0 \
    HOLTER_PORT=8787 \
    HOLTER_DB=sqlite:////data/holter.db
USER holter
WORKDIR /data
VOLUME /data
EXPOSE 8787
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"HOLTER_PORT\"]}/healthz', timeout=4)"]
CMD ["holter", "serve"]
