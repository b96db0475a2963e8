// The algorithm of a convolution. cuDNN before 8 chose one within a limit of memory; since then it returns candidates,
// the fastest first by its estimate, and the choice is ours.
#ifndef GOSSIP_CAFFE_CONVOLUTION_ALGORITHMS_HPP_
#define GOSSIP_CAFFE_CONVOLUTION_ALGORITHMS_HPP_

#include <cstddef>

#include "opened_libraries.hpp"

namespace caffe {
namespace cudnn {

// More than there are of any kind.
const int MOST_CANDIDATES = 16;

// The first candidate that works in plain float32 and within the limit; `otherwise`, which needs no memory, if none.
template <typename Candidate, typename Algorithm>
Algorithm fastest_within(const Candidate* candidates, int count, size_t limit_bytes, Algorithm otherwise) {
  for (int i = 0; i < count; ++i) {
    const Candidate& one = candidates[i];
    if (one.status == CUDNN_STATUS_SUCCESS && one.memory <= limit_bytes &&
        (one.mathType == CUDNN_DEFAULT_MATH || one.mathType == CUDNN_FMA_MATH)) {
      return one.algo;
    }
  }
  return otherwise;
}

inline cudnnStatus_t choose_forward(cudnnHandle_t handle, cudnnTensorDescriptor_t bottom,
                                    cudnnFilterDescriptor_t filter, cudnnConvolutionDescriptor_t conv,
                                    cudnnTensorDescriptor_t top, size_t limit_bytes,
                                    cudnnConvolutionFwdAlgo_t* chosen) {
  cudnnConvolutionFwdAlgoPerf_t candidates[MOST_CANDIDATES];
  int count = 0;
  const cudnnStatus_t status = cudnnGetConvolutionForwardAlgorithm_v7(handle, bottom, filter, conv, top,
                                                                      MOST_CANDIDATES, &count, candidates);
  *chosen = fastest_within(candidates, count, limit_bytes, CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM);
  return status;
}

inline cudnnStatus_t choose_backward_filter(cudnnHandle_t handle, cudnnTensorDescriptor_t bottom,
                                            cudnnTensorDescriptor_t top, cudnnConvolutionDescriptor_t conv,
                                            cudnnFilterDescriptor_t filter, size_t limit_bytes,
                                            cudnnConvolutionBwdFilterAlgo_t* chosen) {
  cudnnConvolutionBwdFilterAlgoPerf_t candidates[MOST_CANDIDATES];
  int count = 0;
  const cudnnStatus_t status = cudnnGetConvolutionBackwardFilterAlgorithm_v7(handle, bottom, top, conv, filter,
                                                                             MOST_CANDIDATES, &count, candidates);
  *chosen = fastest_within(candidates, count, limit_bytes, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0);
  return status;
}

inline cudnnStatus_t choose_backward_data(cudnnHandle_t handle, cudnnFilterDescriptor_t filter,
                                          cudnnTensorDescriptor_t top, cudnnConvolutionDescriptor_t conv,
                                          cudnnTensorDescriptor_t bottom, size_t limit_bytes,
                                          cudnnConvolutionBwdDataAlgo_t* chosen) {
  cudnnConvolutionBwdDataAlgoPerf_t candidates[MOST_CANDIDATES];
  int count = 0;
  const cudnnStatus_t status = cudnnGetConvolutionBackwardDataAlgorithm_v7(handle, filter, top, conv, bottom,
                                                                           MOST_CANDIDATES, &count, candidates);
  *chosen = fastest_within(candidates, count, limit_bytes, CUDNN_CONVOLUTION_BWD_DATA_ALGO_0);
  return status;
}

}  // namespace cudnn
}  // namespace caffe

#endif  // GOSSIP_CAFFE_CONVOLUTION_ALGORITHMS_HPP_
