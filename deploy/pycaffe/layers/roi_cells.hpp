// Where a cell of a region of interest lies in the features: the same arithmetic on the CPU and on a GPU.
#ifndef GOSSIP_LAYERS_ROI_CELLS_HPP_
#define GOSSIP_LAYERS_ROI_CELLS_HPP_

#include <cmath>

#ifdef __CUDACC__
#define ROI_HOST_AND_DEVICE __host__ __device__
#else
#define ROI_HOST_AND_DEVICE
#endif

namespace caffe {
namespace roi {

struct Range {
  int begin, end;
};

// The places of cell number `cell` of `cells` along one axis of `size` places, of a region from corner `first` to `last`.
template <typename Dtype>
ROI_HOST_AND_DEVICE Range cell_range(Dtype first, Dtype last, Dtype scale, int cell, int cells, int size) {
  const int begin = static_cast<int>(round(first * scale));
  const int end = static_cast<int>(round(last * scale));
  const int length = end - begin + 1 > 1 ? end - begin + 1 : 1;
  const Dtype step = static_cast<Dtype>(length) / static_cast<Dtype>(cells);
  Range range = {begin + static_cast<int>(floor(static_cast<Dtype>(cell) * step)),
                 begin + static_cast<int>(ceil(static_cast<Dtype>(cell + 1) * step))};
  range.begin = range.begin < 0 ? 0 : (range.begin > size ? size : range.begin);
  range.end = range.end < 0 ? 0 : (range.end > size ? size : range.end);
  return range;
}

}  // namespace roi
}  // namespace caffe

#endif  // GOSSIP_LAYERS_ROI_CELLS_HPP_
