// ROIPooling: Girshick, "Fast R-CNN", 2015, section 2.1.
#ifndef GOSSIP_LAYERS_ROI_POOLING_HPP_
#define GOSSIP_LAYERS_ROI_POOLING_HPP_

#include <vector>

#include "caffe/blob.hpp"
#include "caffe/layer.hpp"
#include "caffe/proto/caffe.pb.h"

namespace caffe {

// bottom[0]: features, N x C x H x W. bottom[1]: regions, R x 5: the image's index in the batch, and the corners x1, y1,
// x2, y2 in the image's pixels, both included. top[0]: R x C x pooled_h x pooled_w.
//
// A corner times spatial_scale, rounded, is a place in the features; a region is at least one place wide and high. It is
// divided into pooled_h x pooled_w cells, whose bounds are rounded outwards; each gives its maximum, an empty one 0.
// The gradient goes to the place of the maximum; regions get zeros.
template <typename Dtype>
class ROIPoolingLayer : public Layer<Dtype> {
 public:
  explicit ROIPoolingLayer(const LayerParameter& param) : Layer<Dtype>(param) {}
  virtual void LayerSetUp(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top);
  virtual void Reshape(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top);
  virtual const char* type() const { return "ROIPooling"; }
  virtual int ExactNumBottomBlobs() const { return 2; }
  virtual int ExactNumTopBlobs() const { return 1; }
  virtual bool AllowForceBackward(const int bottom_index) const { return bottom_index == 0; }

 protected:
  virtual void Forward_cpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top);
  virtual void Backward_cpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                            const vector<Blob<Dtype>*>& bottom);
#ifndef CPU_ONLY
  virtual void Forward_gpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top);
  virtual void Backward_gpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                            const vector<Blob<Dtype>*>& bottom);
#endif

  int pooled_h_, pooled_w_;
  Dtype scale_;
  Blob<int> place_;  // of each maximum, in its image and channel: y * W + x, or -1
};

}  // namespace caffe

#endif  // GOSSIP_LAYERS_ROI_POOLING_HPP_
