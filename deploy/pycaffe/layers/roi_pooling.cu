#include <vector>

#include "caffe/util/math_functions.hpp"
#include "roi_cells.hpp"
#include "roi_pooling.hpp"

namespace caffe {

template <typename Dtype>
__global__ void roi_forward(const int count, const Dtype* features, const Dtype* regions, const Dtype scale,
                            const int images, const int channels, const int height, const int width,
                            const int pooled_h, const int pooled_w, Dtype* out, int* places) {
  CUDA_KERNEL_LOOP(i, count) {
    const int w = i % pooled_w, h = i / pooled_w % pooled_h, c = i / (pooled_w * pooled_h) % channels;
    const Dtype* const region = regions + i / (pooled_w * pooled_h * channels) * 5;
    const int image = static_cast<int>(region[0]);
    if (image < 0 || image >= images) __trap();  // the CPU names the region; here the run ends with a launch failure
    const roi::Range rows = roi::cell_range(region[2], region[4], scale, h, pooled_h, height);
    const roi::Range columns = roi::cell_range(region[1], region[3], scale, w, pooled_w, width);
    const Dtype* const plane = features + (image * channels + c) * height * width;
    int place = -1;
    for (int y = rows.begin; y < rows.end; ++y) {
      for (int x = columns.begin; x < columns.end; ++x) {
        if (place < 0 || plane[y * width + x] > plane[place]) place = y * width + x;
      }
    }
    places[i] = place;
    out[i] = place < 0 ? Dtype(0) : plane[place];
  }
}

// One thread for each feature sums what the regions' maxima send to it: in a fixed order, so that the sum is the same
// every time, as atomic additions would not be.
template <typename Dtype>
__global__ void roi_backward(const int count, const Dtype* out, const int* places, const Dtype* regions,
                             const int regions_count, const Dtype scale, const int channels, const int height,
                             const int width, const int pooled_h, const int pooled_w, Dtype* diff) {
  CUDA_KERNEL_LOOP(i, count) {
    const int x = i % width, y = i / width % height, c = i / (width * height) % channels;
    const int image = i / (width * height * channels);
    const int place = y * width + x;
    Dtype sum = 0;
    for (int r = 0; r < regions_count; ++r) {
      const Dtype* const region = regions + r * 5;
      if (static_cast<int>(region[0]) != image) continue;
      const int cells = (r * channels + c) * pooled_h * pooled_w;
      for (int h = 0; h < pooled_h; ++h) {
        const roi::Range rows = roi::cell_range(region[2], region[4], scale, h, pooled_h, height);
        if (y < rows.begin || y >= rows.end) continue;
        for (int w = 0; w < pooled_w; ++w) {
          const int cell = cells + h * pooled_w + w;
          if (places[cell] == place) sum += out[cell];
        }
      }
    }
    diff[i] = sum;
  }
}

template <typename Dtype>
void ROIPoolingLayer<Dtype>::Forward_gpu(const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  const int count = top[0]->count();
  if (count == 0) return;  // no regions
  roi_forward<Dtype><<<CAFFE_GET_BLOCKS(count), CAFFE_CUDA_NUM_THREADS>>>(
      count, bottom[0]->gpu_data(), bottom[1]->gpu_data(), scale_, bottom[0]->num(), bottom[0]->channels(),
      bottom[0]->height(), bottom[0]->width(), pooled_h_, pooled_w_, top[0]->mutable_gpu_data(),
      place_.mutable_gpu_data());
  CUDA_POST_KERNEL_CHECK;
}

template <typename Dtype>
void ROIPoolingLayer<Dtype>::Backward_gpu(const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
                                          const vector<Blob<Dtype>*>& bottom) {
  if (propagate_down[1]) caffe_gpu_set(bottom[1]->count(), Dtype(0), bottom[1]->mutable_gpu_diff());
  if (!propagate_down[0]) return;
  const int count = bottom[0]->count();
  roi_backward<Dtype><<<CAFFE_GET_BLOCKS(count), CAFFE_CUDA_NUM_THREADS>>>(
      count, top[0]->gpu_diff(), place_.gpu_data(), bottom[1]->gpu_data(), top[0]->num(), scale_,
      bottom[0]->channels(), bottom[0]->height(), bottom[0]->width(), pooled_h_, pooled_w_,
      bottom[0]->mutable_gpu_diff());
  CUDA_POST_KERNEL_CHECK;
}

INSTANTIATE_LAYER_GPU_FUNCS(ROIPoolingLayer);

}  // namespace caffe
