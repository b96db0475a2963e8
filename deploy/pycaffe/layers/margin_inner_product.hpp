// MarginInnerProduct: Liu et al., "SphereFace: Deep Hypersphere Embedding for Face Recognition", 2017 (A-Softmax).
#ifndef GOSSIP_LAYERS_MARGIN_INNER_PRODUCT_HPP_
#define GOSSIP_LAYERS_MARGIN_INNER_PRODUCT_HPP_

#include <vector>

#include "caffe/blob.hpp"
#include "caffe/layer.hpp"
#include "caffe/proto/caffe.pb.h"

namespace caffe {

// bottom[0]: features x, M x ... (K numbers behind axis). bottom[1]: M labels y below num_output. top[0]: M x num_output.
// top[1], if wanted: lambda. blobs[0]: the rows w, num_output x K, which each forward pass in training makes 1 long.
//
// With theta the angle between x and w_j, output j is |x| cos(theta). For j = y it is
//   |x| (lambda cos(theta) + (-1)^k cos(m theta) - 2 k) / (1 + lambda),  k = floor(m theta / pi),
// with the margin m of `type`. lambda falls with the number of forward passes in training, t, which begins at
// `iteration`: max(lambda_min, base (1 + gamma t)^-power). The count is not part of a snapshot, as in the paper's code:
// a training that goes on from one begins at `iteration` again.
//
// The gradient is that of this function, of the rows (1 long) too: it is orthogonal to them. On a GPU the layer computes on the
// host.
template <typename Dtype>
class MarginInnerProductLayer : public Layer<Dtype> {
 public:
  explicit MarginInnerProductLayer(const LayerParameter& param) : Layer<Dtype>(param) {}
  virtual void LayerSetUp(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top);
  virtual void Reshape(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top);
  virtual const char* type() const { return "MarginInnerProduct"; }
  virtual int ExactNumBottomBlobs() const { return 2; }
  virtual int MinTopBlobs() const { return 1; }
  virtual int MaxTopBlobs() const { return 2; }

 protected:
  virtual void Forward_cpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top);
  virtual void Backward_cpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                            const vector<Blob<Dtype>*>& bottom);

  int samples_, classes_, features_, margin_, iteration_;
  Dtype lambda_;
  Blob<Dtype> rows_;    // w_j / |w_j|, num_output x K
  Blob<Dtype> length_;  // data: |x_i|. diff: the label's output over |x_i|, derived by its cosine
};

}  // namespace caffe

#endif  // GOSSIP_LAYERS_MARGIN_INNER_PRODUCT_HPP_
