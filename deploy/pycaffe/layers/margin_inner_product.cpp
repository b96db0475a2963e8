#include "margin_inner_product.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "caffe/filler.hpp"
#include "caffe/layer_factory.hpp"
#include "caffe/util/math_functions.hpp"

namespace caffe {

namespace {

const double kPi = 3.14159265358979323846;

// psi(theta) = (-1)^k cos(m theta) - 2 k, and its derivative by the cosine c of theta. cos(m theta) is the Chebyshev
// polynomial T_m of c: T_m' = m U_(m-1).
template <typename Dtype>
void margin(int m, Dtype c, Dtype* psi, Dtype* slope) {
  Dtype cosine = 0, derived = 0;
  switch (m) {
    case 1: cosine = c, derived = 1; break;
    case 2: cosine = 2 * c * c - 1, derived = 4 * c; break;
    case 3: cosine = c * (4 * c * c - 3), derived = 12 * c * c - 3; break;
    case 4: cosine = 8 * c * c * (c * c - 1) + 1, derived = c * (32 * c * c - 16); break;
    default: LOG(FATAL) << "no margin " << m;
  }
  int k = 0;
  while (k < m - 1 && c < std::cos((k + 1) * kPi / m)) ++k;
  const int sign = k % 2 ? -1 : 1;
  *psi = sign * cosine - 2 * k;
  *slope = sign * derived;
}

}  // namespace

template <typename Dtype>
void MarginInnerProductLayer<Dtype>::LayerSetUp(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>&) {
  const MarginInnerProductParameter& param = this->layer_param_.margin_inner_product_param();
  CHECK_GT(param.num_output(), 0) << "margin_inner_product_param.num_output must be above 0";
  classes_ = param.num_output();
  features_ = bottom[0]->count(bottom[0]->CanonicalAxisIndex(param.axis()));
  margin_ = static_cast<int>(param.type()) + 1;
  iteration_ = param.iteration();
  lambda_ = 0;
  const int shape[] = {classes_, features_};
  if (this->blobs_.empty()) {
    this->blobs_.resize(1);
    this->blobs_[0].reset(new Blob<Dtype>(vector<int>(shape, shape + 2)));
    shared_ptr<Filler<Dtype> > filler(GetFiller<Dtype>(param.weight_filler()));
    filler->Fill(this->blobs_[0].get());
  }
  this->param_propagate_down_.resize(1, true);
}

template <typename Dtype>
void MarginInnerProductLayer<Dtype>::Reshape(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  const int axis = bottom[0]->CanonicalAxisIndex(this->layer_param_.margin_inner_product_param().axis());
  CHECK_EQ(features_, bottom[0]->count(axis)) << "the number of features must not change: a row has as many";
  samples_ = bottom[0]->count(0, axis);
  CHECK_EQ(samples_, bottom[1]->count()) << "each sample must have one label";
  vector<int> shape(bottom[0]->shape().begin(), bottom[0]->shape().begin() + axis);
  shape.push_back(classes_);
  top[0]->Reshape(shape);
  if (top.size() > 1) top[1]->Reshape(vector<int>(1, 1));
  rows_.ReshapeLike(*this->blobs_[0]);
  length_.Reshape(vector<int>(1, samples_));
}

template <typename Dtype>
void MarginInnerProductLayer<Dtype>::Forward_cpu(const vector<Blob<Dtype>*>& bottom,
                                                 const vector<Blob<Dtype>*>& top) {
  const MarginInnerProductParameter& param = this->layer_param_.margin_inner_product_param();
  if (this->phase_ == TRAIN) ++iteration_;
  lambda_ = std::max(static_cast<Dtype>(param.lambda_min()),
                     static_cast<Dtype>(param.base() * std::pow(1. + param.gamma() * iteration_, -param.power())));
  Dtype* const rows = rows_.mutable_cpu_data();
  caffe_copy(rows_.count(), this->blobs_[0]->cpu_data(), rows);
  for (int j = 0; j < classes_; ++j) {
    Dtype* const row = rows + j * features_;
    const Dtype length = std::sqrt(caffe_cpu_dot(features_, row, row));
    if (length > 0) caffe_scal(features_, 1 / length, row);
  }
  if (this->phase_ == TRAIN) caffe_copy(rows_.count(), rows, this->blobs_[0]->mutable_cpu_data());

  Dtype* const out = top[0]->mutable_cpu_data();
  caffe_cpu_gemm<Dtype>(CblasNoTrans, CblasTrans, samples_, classes_, features_, 1, bottom[0]->cpu_data(), rows, 0, out);
  const Dtype* const label = bottom[1]->cpu_data();
  for (int i = 0; i < samples_; ++i) {
    const int y = static_cast<int>(label[i]);
    CHECK(y >= 0 && y < classes_) << "label " << y << " of sample " << i << " is not one of " << classes_ << " classes";
    const Dtype* const x = bottom[0]->cpu_data() + i * features_;
    const Dtype length = std::sqrt(caffe_cpu_dot(features_, x, x));
    Dtype& mine = out[i * classes_ + y];
    const Dtype cosine = length > 0 ? std::max(Dtype(-1), std::min(mine / length, Dtype(1))) : Dtype(0);
    Dtype psi, slope;
    margin(margin_, cosine, &psi, &slope);
    length_.mutable_cpu_data()[i] = length;
    length_.mutable_cpu_diff()[i] = (lambda_ + slope) / (1 + lambda_);
    mine = length * (lambda_ * cosine + psi) / (1 + lambda_);
  }
  if (top.size() > 1) top[1]->mutable_cpu_data()[0] = lambda_;
}

// Output y is |x| g(c) with c = x w / |x|: by x it is (g - c g') x / |x| + g' w; by w it is g' x. By the row's own
// length it does not change, so what of the gradient is along the row goes.
template <typename Dtype>
void MarginInnerProductLayer<Dtype>::Backward_cpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                                                  const vector<Blob<Dtype>*>& bottom) {
  CHECK(!propagate_down[1]) << this->type() << " has no gradient for its labels";
  const Dtype* const label = bottom[1]->cpu_data();
  const Dtype* const rows = rows_.cpu_data();
  const Dtype* const length = length_.cpu_data();
  const Dtype* const slope = length_.cpu_diff();
  // The label's outputs as plain ones of g' x; what is left of their gradient by x is along x.
  Blob<Dtype> diff(top[0]->shape());
  caffe_copy(diff.count(), top[0]->cpu_diff(), diff.mutable_cpu_data());
  for (int i = 0; i < samples_; ++i) diff.mutable_cpu_data()[i * classes_ + static_cast<int>(label[i])] *= slope[i];
  if (propagate_down[0]) {
    Dtype* const dx = bottom[0]->mutable_cpu_diff();
    caffe_cpu_gemm<Dtype>(CblasNoTrans, CblasNoTrans, samples_, features_, classes_, 1, diff.cpu_data(), rows, 0, dx);
    for (int i = 0; i < samples_; ++i) {
      if (!(length[i] > 0)) continue;
      const int y = static_cast<int>(label[i]), at = i * classes_ + y;
      const Dtype* const x = bottom[0]->cpu_data() + i * features_;
      const Dtype cosine = caffe_cpu_dot(features_, x, rows + y * features_) / length[i];
      const Dtype along = top[0]->cpu_data()[at] / length[i] - cosine * slope[i];
      caffe_axpy(features_, top[0]->cpu_diff()[at] * along / length[i], x, dx + i * features_);
    }
  }
  if (this->param_propagate_down_[0]) {
    Blob<Dtype> turn(this->blobs_[0]->shape());
    Dtype* const dw = turn.mutable_cpu_data();
    caffe_cpu_gemm<Dtype>(CblasTrans, CblasNoTrans, classes_, features_, samples_, 1, diff.cpu_data(),
                          bottom[0]->cpu_data(), 0, dw);
    for (int j = 0; j < classes_; ++j) {
      Dtype* const row_diff = dw + j * features_;
      const Dtype* const row = rows + j * features_;
      caffe_axpy(features_, -caffe_cpu_dot(features_, row, row_diff), row, row_diff);
    }
    caffe_axpy(turn.count(), Dtype(1), dw, this->blobs_[0]->mutable_cpu_diff());
  }
}

INSTANTIATE_CLASS(MarginInnerProductLayer);
REGISTER_LAYER_CLASS(MarginInnerProduct);

}  // namespace caffe
