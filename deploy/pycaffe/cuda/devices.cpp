#include "devices.hpp"

#include <cuda_runtime.h>

namespace caffe {
namespace devices {

namespace {

// What went wrong is taken out of CUDA's state as well, so that no later check of Caffe's finds it there.
bool good(cudaError_t error, std::string* reason) {
  if (error == cudaSuccess) return true;
  *reason = cudaGetErrorString(error);
  cudaGetLastError();
  return false;
}

}  // namespace

int count(std::string* reason) {
  int found = 0;
  return good(cudaGetDeviceCount(&found), reason) ? found : -1;
}

bool describe(int index, Device* found, std::string* reason) {
  cudaDeviceProp properties;
  char bus[32] = "";
  int before = 0;
  if (!good(cudaGetDevice(&before), reason) || !good(cudaGetDeviceProperties(&properties, index), reason) ||
      !good(cudaDeviceGetPCIBusId(bus, sizeof(bus), index), reason) || !good(cudaSetDevice(index), reason)) {
    return false;
  }
  const bool known = good(cudaMemGetInfo(&found->free_bytes, &found->memory_bytes), reason);
  cudaSetDevice(before);
  found->name = properties.name;
  found->bus = bus;
  found->capability = std::to_string(properties.major) + "." + std::to_string(properties.minor);
  return known;
}

}  // namespace devices
}  // namespace caffe
