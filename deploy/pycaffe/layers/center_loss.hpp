// CenterLoss: Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", 2016.
#ifndef GOSSIP_LAYERS_CENTER_LOSS_HPP_
#define GOSSIP_LAYERS_CENTER_LOSS_HPP_

#include <vector>

#include "caffe/blob.hpp"
#include "caffe/layers/loss_layer.hpp"
#include "caffe/proto/caffe.pb.h"

namespace caffe {

// bottom[0]: features, M x ... (K numbers behind axis). bottom[1]: M labels below num_output. top[0]: the sum of
// |x_i - c(y_i)|^2 / (2 M). blobs[0]: the centers c, num_output x K.
//
// The features get the gradient of the loss. The centers do not: their "gradient" is equation 4 of the paper, the sum
// of c_j - x_i over the n_j samples of class j, divided by 1 + n_j. The loss's weight does not scale it, and a solver's
// learning rate times lr_mult is the paper's alpha.
template <typename Dtype>
class CenterLossLayer : public LossLayer<Dtype> {
 public:
  explicit CenterLossLayer(const LayerParameter& param) : LossLayer<Dtype>(param) {}
  virtual void LayerSetUp(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top);
  virtual void Reshape(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top);
  virtual const char* type() const { return "CenterLoss"; }
  virtual int ExactNumTopBlobs() const { return 1; }

 protected:
  virtual void Forward_cpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top);
  virtual void Backward_cpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                            const vector<Blob<Dtype>*>& bottom);
#ifndef CPU_ONLY
  virtual void Forward_gpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top);
  virtual void Backward_gpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                            const vector<Blob<Dtype>*>& bottom);
#endif

  int samples_, classes_, features_;
  Blob<Dtype> distance_;  // x_i - c(y_i)
};

}  // namespace caffe

#endif  // GOSSIP_LAYERS_CENTER_LOSS_HPP_
