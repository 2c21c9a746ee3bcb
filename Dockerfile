# The daemon in an image of its own: two programs and their libraries, no shell, no root.
#
#   docker build -t mnemosyne .
#   docker run --rm -p 127.0.0.1:7717:7717 mnemosyne
#
# With the CUDA backend, from a base image that has nvcc:
#
#   docker build -t mnemosyne:cuda --build-arg PRESET=cuda \
#     --build-arg BUILD_IMAGE=nvidia/cuda:13.0.1-devel-ubuntu24.04 .
ARG BUILD_IMAGE=debian:12

FROM ${BUILD_IMAGE} AS build
RUN apt-get update \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    cmake g++ libabsl-dev libcli11-dev libeigen3-dev libfmt-dev libgrpc++-dev libprotobuf-dev \
    libspdlog-dev libssl-dev libxxhash-dev ninja-build nlohmann-json3-dev pkg-config \
    protobuf-compiler protobuf-compiler-grpc \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY CMakeLists.txt CMakePresets.json ./
COPY cmake cmake
COPY base base
COPY proto proto
COPY kernels kernels
COPY optim optim
COPY server server
COPY client/cpp client/cpp
ARG PRESET=release
# What `--version` tells, such as the output of `git rev-parse --short=12 HEAD`.
ARG COMMIT=
RUN cmake --preset "${PRESET}" -DMNEMOSYNE_COMMIT="${COMMIT}" \
    -DMNEMOSYNE_TESTS=OFF -DMNEMOSYNE_BENCHMARKS=OFF -DMNEMOSYNE_WERROR=OFF \
  && cmake --build --preset "${PRESET}" --target mnemosyned mnemosynectl
COPY deploy/collect_runtime.sh deploy/
RUN deploy/collect_runtime.sh /runtime \
    "build/${PRESET}/bin/mnemosyned" "build/${PRESET}/bin/mnemosynectl" \
  && chown 65532:65532 /runtime/run/mnemosyne
COPY models /runtime/usr/share/mnemosyne/models

FROM scratch
COPY --from=build /runtime /
# Read by a container runtime for GPUs; without one they mean nothing.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 65532:65532
EXPOSE 7717
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s --retries=3 \
  CMD ["/usr/bin/mnemosynectl", "--address", "127.0.0.1:7717", "health"]
ENTRYPOINT ["/usr/bin/mnemosyned"]
# All addresses of the container, since its own loopback cannot be reached from outside; publish them
# on loopback, or give certificates.
CMD ["--listen", "0.0.0.0:7717", "--allow-plaintext"]
