#include <vector>

#include "neurons.hpp"

namespace caffe {

template <typename Dtype>
__global__ void swish_forward(const int count, const Dtype beta, const Dtype* x, Dtype* sigmoid, Dtype* y) {
  CUDA_KERNEL_LOOP(i, count) {
    const Dtype value = x[i];
    sigmoid[i] = 1 / (1 + exp(-beta * value));
    y[i] = value * sigmoid[i];
  }
}

template <typename Dtype>
__global__ void swish_backward(const int count, const Dtype beta, const Dtype* y, const Dtype* dy,
                               const Dtype* sigmoid, Dtype* dx) {
  CUDA_KERNEL_LOOP(i, count) { dx[i] = dy[i] * (sigmoid[i] + beta * y[i] * (1 - sigmoid[i])); }
}

template <typename Dtype>
void SwishLayer<Dtype>::Forward_gpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  const int count = bottom[0]->count();
  swish_forward<Dtype><<<CAFFE_GET_BLOCKS(count), CAFFE_CUDA_NUM_THREADS>>>(
      count, beta(), bottom[0]->gpu_data(), sigmoid_.mutable_gpu_data(), top[0]->mutable_gpu_data());
  CUDA_POST_KERNEL_CHECK;
}

template <typename Dtype>
void SwishLayer<Dtype>::Backward_gpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                                     const vector<Blob<Dtype>*>& bottom) {
  if (!propagate_down[0]) return;
  const int count = bottom[0]->count();
  swish_backward<Dtype><<<CAFFE_GET_BLOCKS(count), CAFFE_CUDA_NUM_THREADS>>>(
      count, beta(), top[0]->gpu_data(), top[0]->gpu_diff(), sigmoid_.gpu_data(), bottom[0]->mutable_gpu_diff());
  CUDA_POST_KERNEL_CHECK;
}

template <typename Dtype>
__global__ void clip_forward(const int count, const Dtype least, const Dtype most, const Dtype* x, Dtype* y) {
  CUDA_KERNEL_LOOP(i, count) { y[i] = max(least, min(x[i], most)); }
}

template <typename Dtype>
__global__ void clip_backward(const int count, const Dtype least, const Dtype most, const Dtype* x, const Dtype* dy,
                              Dtype* dx) {
  CUDA_KERNEL_LOOP(i, count) { dx[i] = x[i] >= least && x[i] <= most ? dy[i] : Dtype(0); }
}

template <typename Dtype>
void ClipLayer<Dtype>::Forward_gpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  const int count = bottom[0]->count();
  clip_forward<Dtype><<<CAFFE_GET_BLOCKS(count), CAFFE_CUDA_NUM_THREADS>>>(
      count, least(), most(), bottom[0]->gpu_data(), top[0]->mutable_gpu_data());
  CUDA_POST_KERNEL_CHECK;
}

template <typename Dtype>
void ClipLayer<Dtype>::Backward_gpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                                    const vector<Blob<Dtype>*>& bottom) {
  if (!propagate_down[0]) return;
  const int count = bottom[0]->count();
  clip_backward<Dtype><<<CAFFE_GET_BLOCKS(count), CAFFE_CUDA_NUM_THREADS>>>(
      count, least(), most(), bottom[0]->gpu_data(), top[0]->gpu_diff(), bottom[0]->mutable_gpu_diff());
  CUDA_POST_KERNEL_CHECK;
}

INSTANTIATE_LAYER_GPU_FUNCS(SwishLayer);
INSTANTIATE_LAYER_GPU_FUNCS(ClipLayer);

}  // namespace caffe
