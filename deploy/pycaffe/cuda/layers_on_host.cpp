// Layers that declare a GPU pass and have none: in GPU mode they do the CPU's, and Caffe's memory copies what they need
// back and forth by itself.
#include <vector>

#include "caffe/layers/hardsigmoid_layer.hpp"
#include "caffe/layers/hardswish_layer.hpp"
#include "caffe/layers/maxunpool_layer.hpp"
#include "caffe/layers/pixelshuffle_layer.hpp"
#include "caffe/layers/relu6_layer.hpp"
#include "caffe/layers/upsample_layer.hpp"

namespace caffe {

#define ON_HOST(Name)                                                                                            \
  template <typename Dtype>                                                                                      \
  void Name<Dtype>::Forward_gpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {           \
    this->Forward_cpu(bottom, top);                                                                              \
  }                                                                                                              \
  template <typename Dtype>                                                                                      \
  void Name<Dtype>::Backward_gpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,            \
                                 const vector<Blob<Dtype>*>& bottom) {                                           \
    this->Backward_cpu(top, propagate_down, bottom);                                                             \
  }                                                                                                              \
  INSTANTIATE_LAYER_GPU_FUNCS(Name)

ON_HOST(HardSigmoidLayer);
ON_HOST(HardSwishLayer);
ON_HOST(MaxUnPoolLayer);
ON_HOST(PixelShuffleLayer);
ON_HOST(ReLU6Layer);
ON_HOST(UpsampleLayer);

}  // namespace caffe
