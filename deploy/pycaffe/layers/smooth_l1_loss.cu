#include <vector>

#include "caffe/util/math_functions.hpp"
#include "smooth_l1_loss.hpp"

namespace caffe {

template <typename Dtype>
__global__ void smooth_l1(const int count, const Dtype sigma2, const Dtype* predicted, const Dtype* wanted,
                          const Dtype* inside, const Dtype* outside, Dtype* error, Dtype* slope) {
  CUDA_KERNEL_LOOP(i, count) {
    const Dtype w = inside ? inside[i] : Dtype(1), v = outside ? outside[i] : Dtype(1);
    const Dtype d = w * (predicted[i] - wanted[i]);
    const bool quadratic = abs(d) < 1 / sigma2;
    error[i] = v * (quadratic ? sigma2 * d * d / 2 : abs(d) - Dtype(0.5) / sigma2);
    slope[i] = v * w * (quadratic ? sigma2 * d : Dtype((0 < d) - (d < 0)));
  }
}

// The error has the sign of v, so it is summed as it is: asum would be of magnitudes.
template <typename Dtype>
void SmoothL1LossLayer<Dtype>::Forward_gpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  const int count = bottom[0]->count();
  smooth_l1<Dtype><<<CAFFE_GET_BLOCKS(count), CAFFE_CUDA_NUM_THREADS>>>(
      count, sigma2_, bottom[0]->gpu_data(), bottom[1]->gpu_data(), bottom.size() > 2 ? bottom[2]->gpu_data() : NULL,
      bottom.size() > 3 ? bottom[3]->gpu_data() : NULL, error_.mutable_gpu_data(), slope_.mutable_gpu_data());
  CUDA_POST_KERNEL_CHECK;
  caffe_gpu_set(count, Dtype(1), error_.mutable_gpu_diff());
  Dtype sum;
  caffe_gpu_dot(count, error_.gpu_data(), error_.gpu_diff(), &sum);
  top[0]->mutable_cpu_data()[0] = sum / bottom[0]->shape(0);
}

template <typename Dtype>
void SmoothL1LossLayer<Dtype>::Backward_gpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                                            const vector<Blob<Dtype>*>& bottom) {
  for (size_t b = 0; b < bottom.size(); ++b) {
    if (!propagate_down[b]) continue;
    const Dtype sign = b == 0 ? 1 : b == 1 ? -1 : 0;  // the weights are no variables: zeros
    caffe_gpu_scale(bottom[0]->count(), sign * top[0]->cpu_diff()[0] / bottom[0]->shape(0), slope_.gpu_data(),
                    bottom[b]->mutable_gpu_diff());
  }
}

INSTANTIATE_LAYER_GPU_FUNCS(SmoothL1LossLayer);

}  // namespace caffe
