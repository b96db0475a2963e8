// What cards there are, asked without Caffe's checks: an answer, not the end of the process.
#ifndef GOSSIP_CAFFE_DEVICES_HPP_
#define GOSSIP_CAFFE_DEVICES_HPP_

#include <cstddef>
#include <string>

namespace caffe {
namespace devices {

struct Device {
  std::string name;
  std::string capability;  // "9.0"
  std::string bus;         // "0000:41:00.0": its address, by which NVML knows it
  size_t memory_bytes;
  size_t free_bytes;
};

// How many there are; -1, and the reason, when CUDA cannot tell.
int count(std::string* reason);

// One of them. False, and the reason, when it cannot be used. Makes a context on it, which takes some of its memory.
bool describe(int index, Device* found, std::string* reason);

}  // namespace devices
}  // namespace caffe

#endif  // GOSSIP_CAFFE_DEVICES_HPP_
