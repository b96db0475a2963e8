#include <vector>

#include "caffe/util/math_functions.hpp"
#include "center_loss.hpp"

namespace caffe {

template <typename Dtype>
__global__ void center_distance(const int count, const int features, const int classes, const Dtype* x,
                                const Dtype* label, const Dtype* centers, Dtype* distance) {
  CUDA_KERNEL_LOOP(i, count) {
    const int y = static_cast<int>(label[i / features]);
    if (y < 0 || y >= classes) __trap();  // the CPU names the label; here the run ends with a launch failure
    distance[i] = x[i] - centers[y * features + i % features];
  }
}

// The thread of the first sample of a class adds up those of the class, in their order: the same sum every time.
template <typename Dtype>
__global__ void center_update(const int count, const int features, const int samples, const Dtype* label,
                              const Dtype* distance, Dtype* diff) {
  CUDA_KERNEL_LOOP(i, count) {
    const int sample = i / features, feature = i % features;
    const int y = static_cast<int>(label[sample]);
    Dtype sum = 0;
    int members = 0;
    for (int j = 0; j < samples; ++j) {
      if (static_cast<int>(label[j]) != y) continue;
      if (j < sample) {
        members = 0;
        break;
      }
      sum += distance[j * features + feature];
      ++members;
    }
    if (members > 0) diff[y * features + feature] -= sum / (1 + members);
  }
}

template <typename Dtype>
void CenterLossLayer<Dtype>::Forward_gpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  const int count = bottom[0]->count();
  center_distance<Dtype><<<CAFFE_GET_BLOCKS(count), CAFFE_CUDA_NUM_THREADS>>>(
      count, features_, classes_, bottom[0]->gpu_data(), bottom[1]->gpu_data(), this->blobs_[0]->gpu_data(),
      distance_.mutable_gpu_data());
  CUDA_POST_KERNEL_CHECK;
  Dtype sum;
  caffe_gpu_dot(count, distance_.gpu_data(), distance_.gpu_data(), &sum);
  top[0]->mutable_cpu_data()[0] = sum / samples_ / 2;
}

template <typename Dtype>
void CenterLossLayer<Dtype>::Backward_gpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                                          const vector<Blob<Dtype>*>& bottom) {
  CHECK(!propagate_down[1]) << this->type() << " has no gradient for its labels";
  const int count = bottom[0]->count();
  if (this->param_propagate_down_[0]) {
    center_update<Dtype><<<CAFFE_GET_BLOCKS(count), CAFFE_CUDA_NUM_THREADS>>>(
        count, features_, samples_, bottom[1]->gpu_data(), distance_.gpu_data(),
        this->blobs_[0]->mutable_gpu_diff());
    CUDA_POST_KERNEL_CHECK;
  }
  if (propagate_down[0]) {
    caffe_gpu_scale(count, top[0]->cpu_diff()[0] / samples_, distance_.gpu_data(), bottom[0]->mutable_gpu_diff());
  }
}

INSTANTIATE_LAYER_GPU_FUNCS(CenterLossLayer);

}  // namespace caffe
