#include "neurons.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "caffe/layer_factory.hpp"

namespace caffe {

template <typename Dtype>
void SwishLayer<Dtype>::Reshape(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  NeuronLayer<Dtype>::Reshape(bottom, top);
  sigmoid_.ReshapeLike(*bottom[0]);
}

template <typename Dtype>
void SwishLayer<Dtype>::Forward_cpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  const Dtype* const x = bottom[0]->cpu_data();
  Dtype* const sigmoid = sigmoid_.mutable_cpu_data();
  Dtype* const y = top[0]->mutable_cpu_data();
  for (int i = 0; i < bottom[0]->count(); ++i) {
    sigmoid[i] = 1 / (1 + std::exp(-beta() * x[i]));
    y[i] = x[i] * sigmoid[i];
  }
}

template <typename Dtype>
void SwishLayer<Dtype>::Backward_cpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                                     const vector<Blob<Dtype>*>& bottom) {
  if (!propagate_down[0]) return;
  const Dtype* const y = top[0]->cpu_data();
  const Dtype* const dy = top[0]->cpu_diff();
  const Dtype* const sigmoid = sigmoid_.cpu_data();
  Dtype* const dx = bottom[0]->mutable_cpu_diff();
  for (int i = 0; i < bottom[0]->count(); ++i) {
    dx[i] = dy[i] * (sigmoid[i] + beta() * y[i] * (1 - sigmoid[i]));
  }
}

template <typename Dtype>
void ClipLayer<Dtype>::LayerSetUp(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  NeuronLayer<Dtype>::LayerSetUp(bottom, top);
  CHECK(this->layer_param_.has_clip_param()) << "Clip needs clip_param { min: ... max: ... }";
  CHECK_LE(least(), most()) << "clip_param.min must not be above clip_param.max";
}

template <typename Dtype>
void ClipLayer<Dtype>::Forward_cpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  const Dtype* const x = bottom[0]->cpu_data();
  Dtype* const y = top[0]->mutable_cpu_data();
  for (int i = 0; i < bottom[0]->count(); ++i) y[i] = std::max(least(), std::min(x[i], most()));
}

template <typename Dtype>
void ClipLayer<Dtype>::Backward_cpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                                    const vector<Blob<Dtype>*>& bottom) {
  if (!propagate_down[0]) return;
  const Dtype* const x = bottom[0]->cpu_data();
  const Dtype* const dy = top[0]->cpu_diff();
  Dtype* const dx = bottom[0]->mutable_cpu_diff();
  for (int i = 0; i < bottom[0]->count(); ++i) dx[i] = x[i] >= least() && x[i] <= most() ? dy[i] : Dtype(0);
}

INSTANTIATE_CLASS(SwishLayer);
REGISTER_LAYER_CLASS(Swish);
INSTANTIATE_CLASS(ClipLayer);
REGISTER_LAYER_CLASS(Clip);

}  // namespace caffe
