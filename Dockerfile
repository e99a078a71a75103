# The `millrace` program in an image: `docker build -t millrace .`
#
# The first build compiles every dependency: about an hour on two cores. BuildKit keeps what it compiled,
# so that the next build compiles Millrace alone.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY scripts/install-deps.sh scripts/
COPY Cargo.toml Cargo.lock ./
RUN scripts/install-deps.sh && rm -rf /var/lib/apt/lists/*
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/target \
    CARGO_TARGET_DIR=/target cargo build --workspace --release --ignore-rust-version --locked \
    && install -D /target/release/millrace /out/millrace

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 libstdc++6 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/millrace --create-home millrace
COPY --from=build /out/millrace /usr/local/bin/millrace
COPY LICENSE NOTICE /usr/share/doc/millrace/

USER millrace
# State and models; name a volume for it, or they go with the container.
VOLUME /var/lib/millrace
# The project's folder is mounted here, and is what every command takes for its project.
WORKDIR /project
# 7077: features, scores and health over gRPC. 9187: Prometheus.
EXPOSE 7077 9187

# The image has no HTTP client: bash opens the connection itself.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["bash", "-c", \
  "exec 3<>/dev/tcp/127.0.0.1/9187 && printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3 && head -n 1 <&3 | grep -q ' 200 '"]

ENTRYPOINT ["millrace"]
CMD ["--help"]
