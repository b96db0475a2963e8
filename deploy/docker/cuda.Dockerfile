# A peer for NVIDIA GPUs: pycaffe with CUDA 13 and cuDNN 9, built in a first stage with nvcc, run in a second without.
# Not built yet: docs/gpu.md says what was tried.
#
#   docker build -f deploy/docker/cuda.Dockerfile -t gossip-caffe:cuda13 .
#   docker run --gpus all --network host -v /data:/data gossip-caffe:cuda13 \
#       peer start --etcd etcd.example:2379 --job mnist --gpu 0
#
# --build-arg CUDA_ARCHS=80,90 builds for these compute capabilities alone, in a fraction of the time. TOOLKIT and BASE
# are of one distribution: the second stage gets the libraries of the first.
ARG TOOLKIT=nvidia/cuda:13.0.1-devel-ubuntu24.04
ARG BASE=ubuntu:24.04

FROM ${TOOLKIT} AS build
ARG CUDA_ARCHS=""
ENV DEBIAN_FRONTEND=noninteractive CUDA_HOME=/usr/local/cuda GOSSIP_CAFFE_CACHE=/cache
RUN apt-get update && apt-get install --yes --no-install-recommends \
        cmake g++ libboost-filesystem-dev libboost-python-dev libboost-regex-dev libboost-thread-dev libgflags-dev \
        libgoogle-glog-dev libhdf5-dev libleveldb-dev liblmdb-dev libopenblas-dev libprotobuf-dev libsnappy-dev \
        ninja-build pkg-config protobuf-compiler python3-dev python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The nvidia-* packages bring headers for the build and libraries for the run.
RUN python3 -m venv /venv && /venv/bin/pip install --no-cache-dir ".[cuda13,etcd,hdf5,images,leveldb]" \
    && /venv/bin/python deploy/pycaffe/build.py --cuda 1 ${CUDA_ARCHS:+--cuda-archs ${CUDA_ARCHS}} --wheel-dir /wheels \
    && /venv/bin/pip install --no-cache-dir /wheels/*.whl
# The packages of the libraries that pycaffe is linked with, by whatever names this distribution gives them.
RUN ldd /venv/lib/python3*/site-packages/caffe/_caffe.so | awk '$3 ~ "^/" { print $3 }' | xargs -n1 readlink -f \
    | xargs dpkg --search | cut -d: -f1 | sort -u > /libraries

FROM ${BASE}
COPY --from=build /libraries /libraries
RUN apt-get update && apt-get install --yes --no-install-recommends python3 $(cat /libraries) \
    && rm -rf /var/lib/apt/lists/* && useradd --create-home caffe
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER caffe
WORKDIR /home/caffe
ENTRYPOINT ["gossip-caffe"]
CMD ["doctor"]
