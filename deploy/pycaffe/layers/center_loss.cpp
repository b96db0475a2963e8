#include "center_loss.hpp"

#include <vector>

#include "caffe/filler.hpp"
#include "caffe/layer_factory.hpp"
#include "caffe/util/math_functions.hpp"

namespace caffe {

template <typename Dtype>
void CenterLossLayer<Dtype>::LayerSetUp(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  LossLayer<Dtype>::LayerSetUp(bottom, top);
  const CenterLossParameter& param = this->layer_param_.center_loss_param();
  CHECK_GT(param.num_output(), 0) << "center_loss_param.num_output, the number of classes, must be above 0";
  classes_ = param.num_output();
  features_ = bottom[0]->count(bottom[0]->CanonicalAxisIndex(param.axis()));
  if (this->blobs_.empty()) {
    const int shape[] = {classes_, features_};
    this->blobs_.resize(1);
    this->blobs_[0].reset(new Blob<Dtype>(vector<int>(shape, shape + 2)));
    shared_ptr<Filler<Dtype> > filler(GetFiller<Dtype>(param.center_filler()));
    filler->Fill(this->blobs_[0].get());
  }
  this->param_propagate_down_.resize(1, true);
}

template <typename Dtype>
void CenterLossLayer<Dtype>::Reshape(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  LossLayer<Dtype>::Reshape(bottom, top);
  const int axis = bottom[0]->CanonicalAxisIndex(this->layer_param_.center_loss_param().axis());
  CHECK_EQ(features_, bottom[0]->count(axis)) << "the number of features must not change: a center has as many";
  samples_ = bottom[0]->count(0, axis);
  CHECK_EQ(samples_, bottom[1]->count()) << "each sample must have one label";
  distance_.ReshapeLike(*bottom[0]);
}

template <typename Dtype>
void CenterLossLayer<Dtype>::Forward_cpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  const Dtype* const label = bottom[1]->cpu_data();
  for (int i = 0; i < samples_; ++i) {
    const int y = static_cast<int>(label[i]);
    CHECK(y >= 0 && y < classes_) << "label " << y << " of sample " << i << " is not one of " << classes_ << " classes";
    caffe_sub(features_, bottom[0]->cpu_data() + i * features_, this->blobs_[0]->cpu_data() + y * features_,
              distance_.mutable_cpu_data() + i * features_);
  }
  top[0]->mutable_cpu_data()[0] =
      caffe_cpu_dot(distance_.count(), distance_.cpu_data(), distance_.cpu_data()) / samples_ / 2;
}

template <typename Dtype>
void CenterLossLayer<Dtype>::Backward_cpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                                          const vector<Blob<Dtype>*>& bottom) {
  CHECK(!propagate_down[1]) << this->type() << " has no gradient for its labels";
  if (this->param_propagate_down_[0]) {
    const Dtype* const label = bottom[1]->cpu_data();
    vector<int> samples_of(classes_, 0);
    for (int i = 0; i < samples_; ++i) ++samples_of[static_cast<int>(label[i])];
    for (int i = 0; i < samples_; ++i) {
      const int y = static_cast<int>(label[i]);
      caffe_axpy(features_, Dtype(-1) / (1 + samples_of[y]), distance_.cpu_data() + i * features_,
                 this->blobs_[0]->mutable_cpu_diff() + y * features_);
    }
  }
  if (propagate_down[0]) {
    caffe_cpu_scale(distance_.count(), top[0]->cpu_diff()[0] / samples_, distance_.cpu_data(),
                    bottom[0]->mutable_cpu_diff());
  }
}

INSTANTIATE_CLASS(CenterLossLayer);
REGISTER_LAYER_CLASS(CenterLoss);

}  // namespace caffe
