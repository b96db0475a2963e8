// SmoothL1Loss: Girshick, "Fast R-CNN", 2015, equation 3; with sigma and two weights: Ren et al., "Faster R-CNN", 2015.
#ifndef GOSSIP_LAYERS_SMOOTH_L1_LOSS_HPP_
#define GOSSIP_LAYERS_SMOOTH_L1_LOSS_HPP_

#include <vector>

#include "caffe/blob.hpp"
#include "caffe/layers/loss_layer.hpp"
#include "caffe/proto/caffe.pb.h"

namespace caffe {

// bottom[0]: predictions. bottom[1]: targets. bottom[2], if given: the weights inside, w. bottom[3], if given: those
// outside, v. All have one shape, N x ...  top[0]: the sum of v f(w (bottom[0] - bottom[1])), divided by N, where
// f(d) = (sigma d)^2 / 2 for |d| < 1 / sigma^2, and |d| - 1 / (2 sigma^2) beyond.
template <typename Dtype>
class SmoothL1LossLayer : public LossLayer<Dtype> {
 public:
  explicit SmoothL1LossLayer(const LayerParameter& param) : LossLayer<Dtype>(param) {}
  virtual void LayerSetUp(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top);
  virtual void Reshape(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top);
  virtual const char* type() const { return "SmoothL1Loss"; }
  virtual int ExactNumBottomBlobs() const { return -1; }
  virtual int MinBottomBlobs() const { return 2; }
  virtual int MaxBottomBlobs() const { return 4; }
  virtual bool AllowForceBackward(const int bottom_index) const { return bottom_index < 2; }

 protected:
  virtual void Forward_cpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top);
  virtual void Backward_cpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                            const vector<Blob<Dtype>*>& bottom);
#ifndef CPU_ONLY
  virtual void Forward_gpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top);
  virtual void Backward_gpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                            const vector<Blob<Dtype>*>& bottom);
#endif

  Dtype sigma2_;
  Blob<Dtype> slope_;  // v w f'(w (bottom[0] - bottom[1]))
  Blob<Dtype> error_;  // v f(w (bottom[0] - bottom[1]))
};

}  // namespace caffe

#endif  // GOSSIP_LAYERS_SMOOTH_L1_LOSS_HPP_
