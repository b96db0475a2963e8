#include "smooth_l1_loss.hpp"

#include <cmath>
#include <vector>

#include "caffe/layer_factory.hpp"
#include "caffe/util/math_functions.hpp"

namespace caffe {

template <typename Dtype>
void SmoothL1LossLayer<Dtype>::LayerSetUp(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  LossLayer<Dtype>::LayerSetUp(bottom, top);
  const Dtype sigma = this->layer_param_.smooth_l1_loss_param().sigma();
  CHECK_GT(sigma, 0) << "smooth_l1_loss_param.sigma must be above 0";
  sigma2_ = sigma * sigma;
}

template <typename Dtype>
void SmoothL1LossLayer<Dtype>::Reshape(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  LossLayer<Dtype>::Reshape(bottom, top);
  for (size_t b = 1; b < bottom.size(); ++b) {
    CHECK_EQ(bottom[0]->count(), bottom[b]->count())
        << "predictions, targets and weights must be of one size (bottom " << b << ")";
  }
  slope_.ReshapeLike(*bottom[0]);
  error_.ReshapeLike(*bottom[0]);
}

template <typename Dtype>
void SmoothL1LossLayer<Dtype>::Forward_cpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  const int count = bottom[0]->count();
  const Dtype* const predicted = bottom[0]->cpu_data();
  const Dtype* const wanted = bottom[1]->cpu_data();
  const Dtype* const inside = bottom.size() > 2 ? bottom[2]->cpu_data() : NULL;
  const Dtype* const outside = bottom.size() > 3 ? bottom[3]->cpu_data() : NULL;
  Dtype* const slope = slope_.mutable_cpu_data();
  Dtype* const error = error_.mutable_cpu_data();
  for (int i = 0; i < count; ++i) {
    const Dtype w = inside ? inside[i] : Dtype(1), v = outside ? outside[i] : Dtype(1);
    const Dtype d = w * (predicted[i] - wanted[i]);
    const bool quadratic = std::fabs(d) < 1 / sigma2_;
    error[i] = v * (quadratic ? sigma2_ * d * d / 2 : std::fabs(d) - Dtype(0.5) / sigma2_);
    slope[i] = v * w * (quadratic ? sigma2_ * d : Dtype((0 < d) - (d < 0)));
  }
  double sum = 0;  // of a hundred thousand errors, one after the other
  for (int i = 0; i < count; ++i) sum += error[i];
  top[0]->mutable_cpu_data()[0] = static_cast<Dtype>(sum / bottom[0]->shape(0));
}

template <typename Dtype>
void SmoothL1LossLayer<Dtype>::Backward_cpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                                            const vector<Blob<Dtype>*>& bottom) {
  for (size_t b = 0; b < bottom.size(); ++b) {
    if (!propagate_down[b]) continue;
    const Dtype sign = b == 0 ? 1 : b == 1 ? -1 : 0;  // the weights are no variables: zeros
    caffe_cpu_scale(bottom[0]->count(), sign * top[0]->cpu_diff()[0] / bottom[0]->shape(0), slope_.cpu_data(),
                    bottom[b]->mutable_cpu_diff());
  }
}

INSTANTIATE_CLASS(SmoothL1LossLayer);
REGISTER_LAYER_CLASS(SmoothL1Loss);

}  // namespace caffe
