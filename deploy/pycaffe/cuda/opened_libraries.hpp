// cuBLAS, cuRAND and cuDNN, opened when they are first called.
//
// A wheel that was linked against them could not be imported where they are not; opened at run time, the same wheel
// trains on the CPU anywhere. After the libraries' own headers each function that Caffe calls is replaced by a look-up
// of the same type, made once for each place of call. Where a library is not there its functions answer with its
// "not initialised", which Caffe's own checks turn into a message.
#ifndef GOSSIP_CAFFE_OPENED_LIBRARIES_HPP_
#define GOSSIP_CAFFE_OPENED_LIBRARIES_HPP_

#include <cublas_v2.h>
#include <curand.h>
#ifdef USE_CUDNN
#include <cudnn.h>
#endif

namespace caffe {
namespace opened {

enum Library { CUBLAS, CURAND, CUDNN };

// Why a library cannot be used, with what to do; "" when it can.
const char* missing(Library library);

// A function's address; NULL when its library cannot be used.
void* symbol(Library library, const char* name);

template <typename Pointer>
class Function;

template <typename Result, typename... Arguments>
class Function<Result (*)(Arguments...)> {
 public:
  Function(Library library, const char* name, Result absent)
      : pointer_(reinterpret_cast<Result (*)(Arguments...)>(symbol(library, name))), absent_(absent) {}
  Result operator()(Arguments... arguments) const { return pointer_ ? pointer_(arguments...) : absent_; }

 private:
  Result (*const pointer_)(Arguments...);
  const Result absent_;
};

}  // namespace opened
}  // namespace caffe

#define CAFFE_OPENED(library, name, absent)                                                                        \
  ([]() -> const ::caffe::opened::Function<decltype(&::name)>& {                                                   \
    static const ::caffe::opened::Function<decltype(&::name)> function(::caffe::opened::library, #name, (absent)); \
    return function;                                                                                               \
  }())

#define CAFFE_CUBLAS(name) CAFFE_OPENED(CUBLAS, name, CUBLAS_STATUS_NOT_INITIALIZED)
#define cublasCreate_v2 CAFFE_CUBLAS(cublasCreate_v2)
#define cublasDestroy_v2 CAFFE_CUBLAS(cublasDestroy_v2)
#define cublasSasum_v2 CAFFE_CUBLAS(cublasSasum_v2)
#define cublasDasum_v2 CAFFE_CUBLAS(cublasDasum_v2)
#define cublasSaxpy_v2 CAFFE_CUBLAS(cublasSaxpy_v2)
#define cublasDaxpy_v2 CAFFE_CUBLAS(cublasDaxpy_v2)
#define cublasScopy_v2 CAFFE_CUBLAS(cublasScopy_v2)
#define cublasDcopy_v2 CAFFE_CUBLAS(cublasDcopy_v2)
#define cublasSdot_v2 CAFFE_CUBLAS(cublasSdot_v2)
#define cublasDdot_v2 CAFFE_CUBLAS(cublasDdot_v2)
#define cublasSgemm_v2 CAFFE_CUBLAS(cublasSgemm_v2)
#define cublasDgemm_v2 CAFFE_CUBLAS(cublasDgemm_v2)
#define cublasSgemv_v2 CAFFE_CUBLAS(cublasSgemv_v2)
#define cublasDgemv_v2 CAFFE_CUBLAS(cublasDgemv_v2)
#define cublasSscal_v2 CAFFE_CUBLAS(cublasSscal_v2)
#define cublasDscal_v2 CAFFE_CUBLAS(cublasDscal_v2)

#define CAFFE_CURAND(name) CAFFE_OPENED(CURAND, name, CURAND_STATUS_NOT_INITIALIZED)
#define curandCreateGenerator CAFFE_CURAND(curandCreateGenerator)
#define curandDestroyGenerator CAFFE_CURAND(curandDestroyGenerator)
#define curandGenerate CAFFE_CURAND(curandGenerate)
#define curandGenerateNormal CAFFE_CURAND(curandGenerateNormal)
#define curandGenerateNormalDouble CAFFE_CURAND(curandGenerateNormalDouble)
#define curandGenerateUniform CAFFE_CURAND(curandGenerateUniform)
#define curandGenerateUniformDouble CAFFE_CURAND(curandGenerateUniformDouble)
#define curandSetGeneratorOffset CAFFE_CURAND(curandSetGeneratorOffset)
#define curandSetPseudoRandomGeneratorSeed CAFFE_CURAND(curandSetPseudoRandomGeneratorSeed)

#ifdef USE_CUDNN
#define CAFFE_CUDNN(name) CAFFE_OPENED(CUDNN, name, CUDNN_STATUS_NOT_INITIALIZED)
#define cudnnGetErrorString CAFFE_OPENED(CUDNN, cudnnGetErrorString, "cuDNN cannot be opened")
#define cudnnActivationBackward CAFFE_CUDNN(cudnnActivationBackward)
#define cudnnActivationForward CAFFE_CUDNN(cudnnActivationForward)
#define cudnnAddTensor CAFFE_CUDNN(cudnnAddTensor)
#define cudnnBatchNormalizationBackward CAFFE_CUDNN(cudnnBatchNormalizationBackward)
#define cudnnBatchNormalizationForwardInference CAFFE_CUDNN(cudnnBatchNormalizationForwardInference)
#define cudnnBatchNormalizationForwardTraining CAFFE_CUDNN(cudnnBatchNormalizationForwardTraining)
#define cudnnConvolutionBackwardBias CAFFE_CUDNN(cudnnConvolutionBackwardBias)
#define cudnnConvolutionBackwardData CAFFE_CUDNN(cudnnConvolutionBackwardData)
#define cudnnConvolutionBackwardFilter CAFFE_CUDNN(cudnnConvolutionBackwardFilter)
#define cudnnConvolutionForward CAFFE_CUDNN(cudnnConvolutionForward)
#define cudnnCreate CAFFE_CUDNN(cudnnCreate)
#define cudnnCreateActivationDescriptor CAFFE_CUDNN(cudnnCreateActivationDescriptor)
#define cudnnCreateConvolutionDescriptor CAFFE_CUDNN(cudnnCreateConvolutionDescriptor)
#define cudnnCreateFilterDescriptor CAFFE_CUDNN(cudnnCreateFilterDescriptor)
#define cudnnCreateLRNDescriptor CAFFE_CUDNN(cudnnCreateLRNDescriptor)
#define cudnnCreatePoolingDescriptor CAFFE_CUDNN(cudnnCreatePoolingDescriptor)
#define cudnnCreateTensorDescriptor CAFFE_CUDNN(cudnnCreateTensorDescriptor)
#define cudnnDeriveBNTensorDescriptor CAFFE_CUDNN(cudnnDeriveBNTensorDescriptor)
#define cudnnDestroy CAFFE_CUDNN(cudnnDestroy)
#define cudnnDestroyConvolutionDescriptor CAFFE_CUDNN(cudnnDestroyConvolutionDescriptor)
#define cudnnDestroyFilterDescriptor CAFFE_CUDNN(cudnnDestroyFilterDescriptor)
#define cudnnDestroyPoolingDescriptor CAFFE_CUDNN(cudnnDestroyPoolingDescriptor)
#define cudnnDestroyTensorDescriptor CAFFE_CUDNN(cudnnDestroyTensorDescriptor)
#define cudnnDivisiveNormalizationBackward CAFFE_CUDNN(cudnnDivisiveNormalizationBackward)
#define cudnnDivisiveNormalizationForward CAFFE_CUDNN(cudnnDivisiveNormalizationForward)
#define cudnnGetConvolutionBackwardDataAlgorithm_v7 CAFFE_CUDNN(cudnnGetConvolutionBackwardDataAlgorithm_v7)
#define cudnnGetConvolutionBackwardDataWorkspaceSize CAFFE_CUDNN(cudnnGetConvolutionBackwardDataWorkspaceSize)
#define cudnnGetConvolutionBackwardFilterAlgorithm_v7 CAFFE_CUDNN(cudnnGetConvolutionBackwardFilterAlgorithm_v7)
#define cudnnGetConvolutionBackwardFilterWorkspaceSize CAFFE_CUDNN(cudnnGetConvolutionBackwardFilterWorkspaceSize)
#define cudnnGetConvolutionForwardAlgorithm_v7 CAFFE_CUDNN(cudnnGetConvolutionForwardAlgorithm_v7)
#define cudnnGetConvolutionForwardWorkspaceSize CAFFE_CUDNN(cudnnGetConvolutionForwardWorkspaceSize)
#define cudnnLRNCrossChannelBackward CAFFE_CUDNN(cudnnLRNCrossChannelBackward)
#define cudnnLRNCrossChannelForward CAFFE_CUDNN(cudnnLRNCrossChannelForward)
#define cudnnPoolingBackward CAFFE_CUDNN(cudnnPoolingBackward)
#define cudnnPoolingForward CAFFE_CUDNN(cudnnPoolingForward)
#define cudnnSetActivationDescriptor CAFFE_CUDNN(cudnnSetActivationDescriptor)
#define cudnnSetConvolution2dDescriptor CAFFE_CUDNN(cudnnSetConvolution2dDescriptor)
#define cudnnSetConvolutionMathType CAFFE_CUDNN(cudnnSetConvolutionMathType)
#define cudnnSetFilter4dDescriptor CAFFE_CUDNN(cudnnSetFilter4dDescriptor)
#define cudnnSetLRNDescriptor CAFFE_CUDNN(cudnnSetLRNDescriptor)
#define cudnnSetPooling2dDescriptor CAFFE_CUDNN(cudnnSetPooling2dDescriptor)
#define cudnnSetStream CAFFE_CUDNN(cudnnSetStream)
#define cudnnSetTensor4dDescriptorEx CAFFE_CUDNN(cudnnSetTensor4dDescriptorEx)
#define cudnnSoftmaxBackward CAFFE_CUDNN(cudnnSoftmaxBackward)
#define cudnnSoftmaxForward CAFFE_CUDNN(cudnnSoftmaxForward)
#endif  // USE_CUDNN

#endif  // GOSSIP_CAFFE_OPENED_LIBRARIES_HPP_
