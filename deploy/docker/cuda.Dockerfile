# A peer for NVIDIA cards: pycaffe with CUDA 13 and cuDNN 9, built in a first stage with nvcc, run in a second without.
# Not started on a card yet: docs/gpu.md says what was tried.
#
#   docker build -f deploy/docker/cuda.Dockerfile -t gossip-caffe:cuda13 .
#   docker run --gpus all --network host -v /data:/data gossip-caffe:cuda13 \
#       peer start --etcd etcd.example:2379 --job mnist --gpu 0
#
# CUDA_ARCHS=80,90 builds for these compute capabilities alone, in a fraction of the time.
ARG BASE=debian:12-slim
ARG TOOLKIT=nvidia/cuda:13.0.1-devel-debian12

FROM ${TOOLKIT} AS build
ARG CUDA_ARCHS=""
ENV DEBIAN_FRONTEND=noninteractive CUDA_HOME=/usr/local/cuda GOSSIP_CAFFE_CACHE=/cache
RUN apt-get update && apt-get install --yes --no-install-recommends \
        cmake g++ git libboost-filesystem-dev libboost-python-dev libboost-regex-dev libboost-thread-dev \
        libgflags-dev libgoogle-glog-dev libhdf5-dev libleveldb-dev liblmdb-dev libopenblas-dev libprotobuf-dev \
        libsnappy-dev make ninja-build pkg-config protobuf-compiler python3 python3-dev python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The nvidia-* packages bring the headers for the build and the libraries for the run.
RUN python3 -m venv /venv && /venv/bin/pip install --no-cache-dir ".[cuda13,etcd,hdf5,images,leveldb]" \
    && /venv/bin/python deploy/pycaffe/build.py --cuda 1 ${CUDA_ARCHS:+--cuda-archs ${CUDA_ARCHS}} --wheel-dir /wheels \
    && /venv/bin/pip install --no-cache-dir /wheels/*.whl

FROM ${BASE}
RUN apt-get update && apt-get install --yes --no-install-recommends \
        libboost-filesystem1.74.0 libboost-python1.74.0 libboost-regex1.74.0 libboost-thread1.74.0 libgflags2.2 \
        libgoogle-glog0v6 libhdf5-103-1 libhdf5-hl-100 libleveldb1d liblmdb0 libopenblas0-pthread libprotobuf32 \
        libsnappy1v5 python3 \
    && rm -rf /var/lib/apt/lists/* && useradd --create-home caffe
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER caffe
WORKDIR /home/caffe
ENTRYPOINT ["gossip-caffe"]
CMD ["doctor"]
