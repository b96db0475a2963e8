#include "roi_pooling.hpp"

#include <vector>

#include "caffe/layer_factory.hpp"
#include "caffe/util/math_functions.hpp"
#include "roi_cells.hpp"

namespace caffe {

template <typename Dtype>
void ROIPoolingLayer<Dtype>::LayerSetUp(const vector<Blob<Dtype>*>&, const vector<Blob<Dtype>*>&) {
  const ROIPoolingParameter& param = this->layer_param_.roi_pooling_param();
  CHECK_GT(param.pooled_h(), 0) << "roi_pooling_param.pooled_h must be above 0";
  CHECK_GT(param.pooled_w(), 0) << "roi_pooling_param.pooled_w must be above 0";
  pooled_h_ = param.pooled_h();
  pooled_w_ = param.pooled_w();
  scale_ = param.spatial_scale();
}

template <typename Dtype>
void ROIPoolingLayer<Dtype>::Reshape(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  CHECK_EQ(bottom[0]->num_axes(), 4) << "the features must have 4 axes";
  CHECK_GE(bottom[1]->num_axes(), 1) << "the regions must have an axis";
  CHECK_EQ(bottom[1]->count(1), 5) << "a region has 5 numbers: the image's index, x1, y1, x2, y2";
  top[0]->Reshape(bottom[1]->shape(0), bottom[0]->channels(), pooled_h_, pooled_w_);
  place_.Reshape(top[0]->shape());
}

template <typename Dtype>
void ROIPoolingLayer<Dtype>::Forward_cpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  const int channels = bottom[0]->channels(), height = bottom[0]->height(), width = bottom[0]->width();
  const Dtype* region = bottom[1]->cpu_data();
  Dtype* out = top[0]->mutable_cpu_data();
  int* place = place_.mutable_cpu_data();
  for (int r = 0; r < top[0]->num(); ++r, region += 5) {
    const int image = static_cast<int>(region[0]);
    CHECK(image >= 0 && image < bottom[0]->num())
        << "region " << r << " is of image " << image << " in a batch of " << bottom[0]->num();
    for (int c = 0; c < channels; ++c) {
      const Dtype* const plane = bottom[0]->cpu_data() + bottom[0]->offset(image, c);
      for (int h = 0; h < pooled_h_; ++h) {
        const roi::Range rows = roi::cell_range(region[2], region[4], scale_, h, pooled_h_, height);
        for (int w = 0; w < pooled_w_; ++w, ++out, ++place) {
          const roi::Range columns = roi::cell_range(region[1], region[3], scale_, w, pooled_w_, width);
          *place = -1;
          for (int y = rows.begin; y < rows.end; ++y) {
            for (int x = columns.begin; x < columns.end; ++x) {
              if (*place < 0 || plane[y * width + x] > plane[*place]) *place = y * width + x;
            }
          }
          *out = *place < 0 ? Dtype(0) : plane[*place];
        }
      }
    }
  }
}

template <typename Dtype>
void ROIPoolingLayer<Dtype>::Backward_cpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                                          const vector<Blob<Dtype>*>& bottom) {
  if (propagate_down[1]) caffe_set(bottom[1]->count(), Dtype(0), bottom[1]->mutable_cpu_diff());
  if (!propagate_down[0]) return;
  Dtype* const diff = bottom[0]->mutable_cpu_diff();
  caffe_set(bottom[0]->count(), Dtype(0), diff);
  const Dtype* region = bottom[1]->cpu_data();
  const Dtype* out = top[0]->cpu_diff();
  const int* place = place_.cpu_data();
  for (int r = 0; r < top[0]->num(); ++r, region += 5) {
    for (int c = 0; c < top[0]->channels(); ++c) {
      Dtype* const plane = diff + bottom[0]->offset(static_cast<int>(region[0]), c);
      for (int cell = 0; cell < pooled_h_ * pooled_w_; ++cell, ++out, ++place) {
        if (*place >= 0) plane[*place] += *out;
      }
    }
  }
}

INSTANTIATE_CLASS(ROIPoolingLayer);
REGISTER_LAYER_CLASS(ROIPooling);

}  // namespace caffe
