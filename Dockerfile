# weir as an image. The base is pinned by version; to pin the very bytes as well, add the digest that
# `docker buildx imagetools inspect oven/bun:1.4.5-slim` shows.
#
#   docker build -t weir .
#   docker run -d --name weir -p 2470:2470 -p 127.0.0.1:2471:2471 -v weir:/data --stop-timeout 30 weir
#
# As it stands it is for linux/amd64, where weir's own code verifies signatures, and the libsecp256k1 inside the package
# secp256k1 on processors older than that code is for. With Debian's in the last stage
# (`apt-get install -y --no-install-recommends libsecp256k1-1`, or -2) it is for linux/arm64, too.
# .ci/dockerfile-steps.ts does what this file says without a container engine, and fails when it cannot.

FROM oven/bun:1.4.5-slim AS packages
WORKDIR /app
COPY package.json bun.lock bunfig.toml ./
# Peers are optional ones that only serve development (typescript).
RUN bun install --frozen-lockfile --production --omit=peer

FROM oven/bun:1.4.5-slim
WORKDIR /app
COPY --from=packages /app/node_modules ./node_modules
COPY package.json bun.lock bunfig.toml LICENSE ./
COPY jetstream ./jetstream
COPY migrations ./migrations
COPY simulator ./simulator
COPY src ./src
RUN mkdir -p /data && chown bun:bun /data
# PostgreSQL does not run as root, and nothing else here needs it.
USER bun
ENV NODE_ENV=production
ENV RELAY_DATA_DIR=/data
# As in package.json's start: how much garbage and freed memory may pile up (docs/operations.md, "Memory").
ENV BUN_JSC_forceRAMSize=1073741824
ENV BUN_JSC_smallHeapGrowthFactor=1.1
ENV BUN_JSC_minEdenToOldGenerationRatio=0.065
ENV MIMALLOC_PURGE_DELAY=0
VOLUME /data
EXPOSE 2470 2471
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["bun", "-e", "const port = (process.env.RELAY_API_BIND ?? ':2470').split(':').at(-1); process.exit((await fetch('http://127.0.0.1:' + port + '/_health')).ok ? 0 : 1)"]
ENTRYPOINT ["bun", "src/main.ts"]
CMD ["serve"]
