# The daemon in an image of its own: two programs and their libraries, no shell, no root.
#
#   docker build -t mnemosyne:0.1.0 .
#   docker run --rm -p 127.0.0.1:7717:7717 mnemosyne:0.1.0
#
# What it is built from can be pinned: BUILD_IMAGE by its digest, and with PINNED=1 the packages by
# deploy/packages.txt, from the archive's state that it names. deploy/README.md says how.
#
# With the CUDA backend, from a base image that has nvcc:
#
#   docker build -t mnemosyne:cuda --build-arg PRESET=cuda \
#     --build-arg BUILD_IMAGE=nvidia/cuda:13.0.1-devel-ubuntu24.04 .
ARG BUILD_IMAGE=debian:12.11

FROM ${BUILD_IMAGE} AS build
ARG PINNED=0
COPY deploy/install_packages.sh deploy/packages.txt /source/deploy/
RUN /source/deploy/install_packages.sh "${PINNED}"
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
COPY scripts/make_sbom.py scripts/
RUN deploy/collect_runtime.sh /runtime \
    "build/${PRESET}/bin/mnemosyned" "build/${PRESET}/bin/mnemosynectl" \
  && python3 scripts/make_sbom.py /runtime/usr/bin/mnemosyned /runtime/usr/bin/mnemosynectl \
    >/runtime/usr/share/mnemosyne/sbom.spdx.json \
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
