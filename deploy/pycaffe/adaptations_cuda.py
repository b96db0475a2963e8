"""What is changed in Caffe's pinned source for CUDA 12 and 13 and cuDNN 9, after the changes of adaptations.py.

The same checked list; what is new beside it is in the folder cuda/. BVLC's Caffe ended at CUDA 10 and cuDNN 7.
"""

from __future__ import annotations

from adaptations import Change

_COMMON = "include/caffe/common.hpp"
_CORE = "src/caffe/common.cpp"
_THREAD = "src/caffe/internal_thread.cpp"
_FACTORY = "src/caffe/layer_factory.cpp"
_CUDNN = "include/caffe/util/cudnn.hpp"
_CONVOLUTION = "src/caffe/layers/cudnn_conv_layer.cpp"
_LAZY = "a solver on the CPU must need no driver, and take no memory of a card that others train on"
_GONE = "CUDA 13 has these as attributes only"
_ALGORITHMS = "cuDNN 8 dropped the queries that choose within a limit of memory"
_ENGINE = "cuDNN only in GPU mode and where it can be opened: a net for the CPU would abort without a driver"
_ALIKE = "CPU and GPU peers of one job must compute one function, and cuDNN's own differs at the edges of a picture"


def _default_engine(layer: str) -> Change:
    """Take cuDNN for a layer's DEFAULT engine only where it serves."""
    old = f"    engine = {layer}Parameter_Engine_CUDNN;\n"
    return Change(
        _FACTORY, old, f"    if (cudnn_serves()) engine = {layer}Parameter_Engine_CUDNN;\n", _ENGINE
    )


CHANGES = (
    Change(
        "include/caffe/util/device_alternate.hpp",
        "#include <driver_types.h>  // cuda driver types\n",
        '#include <driver_types.h>  // cuda driver types\n\n#include "opened_libraries.hpp"\n',
        "cuBLAS, cuRAND and cuDNN are opened at run time",
    ),
    # ── what Caffe holds of a card ────────────────────────────────────────────────────────────────────────────────
    Change(
        _COMMON,
        "  inline static cublasHandle_t cublas_handle() { return Get().cublas_handle_; }\n"
        "  inline static curandGenerator_t curand_generator() {\n"
        "    return Get().curand_generator_;\n"
        "  }\n",
        "  static cublasHandle_t cublas_handle();\n  static curandGenerator_t curand_generator();\n",
        _LAZY,
    ),
    Change(
        _COMMON,
        "  curandGenerator_t curand_generator_;\n",
        "  curandGenerator_t curand_generator_;\n  unsigned long long curand_seed_;\n",
        _LAZY,
    ),
    Change(
        _CORE,
        "    mode_(Caffe::CPU), solver_count_(1), root_solver_(true) {\n"
        "  // Try to create a cublas handler, and report an error if failed (but we will\n"
        "  // keep the program running as one might just want to run CPU code).\n"
        "  if (cublasCreate(&cublas_handle_) != CUBLAS_STATUS_SUCCESS) {\n"
        '    LOG(ERROR) << "Cannot create Cublas handle. Cublas won\'t be available.";\n'
        "  }\n"
        "  // Try to create a curand handler.\n"
        "  if (curandCreateGenerator(&curand_generator_, CURAND_RNG_PSEUDO_DEFAULT)\n"
        "      != CURAND_STATUS_SUCCESS ||\n"
        "      curandSetPseudoRandomGeneratorSeed(curand_generator_, cluster_seedgen())\n"
        "      != CURAND_STATUS_SUCCESS) {\n"
        '    LOG(ERROR) << "Cannot create Curand generator. Curand won\'t be available.";\n'
        "  }\n"
        "}\n",
        "    mode_(Caffe::CPU), solver_count_(1), root_solver_(true) {\n"
        "  curand_seed_ = cluster_seedgen();\n"
        "}\n\n"
        "cublasHandle_t Caffe::cublas_handle() {\n"
        "  Caffe& caffe = Get();\n"
        "  if (!caffe.cublas_handle_) {\n"
        "    const char* const missing = opened::missing(opened::CUBLAS);\n"
        "    if (*missing) LOG(FATAL) << missing;\n"
        "    CUBLAS_CHECK(cublasCreate(&caffe.cublas_handle_));\n"
        "  }\n"
        "  return caffe.cublas_handle_;\n"
        "}\n\n"
        "curandGenerator_t Caffe::curand_generator() {\n"
        "  Caffe& caffe = Get();\n"
        "  if (!caffe.curand_generator_) {\n"
        "    const char* const missing = opened::missing(opened::CURAND);\n"
        "    if (*missing) LOG(FATAL) << missing;\n"
        "    CURAND_CHECK(curandCreateGenerator(&caffe.curand_generator_,\n"
        "        CURAND_RNG_PSEUDO_DEFAULT));\n"
        "    CURAND_CHECK(curandSetPseudoRandomGeneratorSeed(caffe.curand_generator_,\n"
        "        caffe.curand_seed_));\n"
        "  }\n"
        "  return caffe.curand_generator_;\n"
        "}\n",
        _LAZY,
    ),
    Change(
        _CORE,
        "  static bool g_curand_availability_logged = false;\n",
        "  Get().curand_seed_ = seed;\n",
        _LAZY,
    ),
    Change(
        _CORE,
        "  } else {\n"
        "    if (!g_curand_availability_logged) {\n"
        "        LOG(ERROR) <<\n"
        '            "Curand not available. Skipping setting the curand seed.";\n'
        "        g_curand_availability_logged = true;\n"
        "    }\n"
        "  }\n",
        "  }\n",
        _LAZY,
    ),
    Change(
        _CORE,
        "  CUBLAS_CHECK(cublasCreate(&Get().cublas_handle_));\n"
        "  CURAND_CHECK(curandCreateGenerator(&Get().curand_generator_,\n"
        "      CURAND_RNG_PSEUDO_DEFAULT));\n"
        "  CURAND_CHECK(curandSetPseudoRandomGeneratorSeed(Get().curand_generator_,\n"
        "      cluster_seedgen()));\n",
        "  Get().cublas_handle_ = NULL;\n  Get().curand_generator_ = NULL;\n",
        _LAZY,
    ),
    Change(
        _THREAD,
        "  CUDA_CHECK(cudaGetDevice(&device));\n",
        "  if (Caffe::mode() == Caffe::GPU) CUDA_CHECK(cudaGetDevice(&device));\n",
        _LAZY,
    ),
    Change(
        _THREAD,
        "  CUDA_CHECK(cudaSetDevice(device));\n",
        "  if (mode == Caffe::GPU) CUDA_CHECK(cudaSetDevice(device));\n",
        _LAZY,
    ),
    Change(
        _CORE,
        "  generator_.reset(other.generator_.get());\n",
        "  generator_ = other.generator_;\n",
        "two owners of one generator would free it twice; the CPU's half has it right",
    ),
    # ── CUDA 13 ───────────────────────────────────────────────────────────────────────────────────────────────────
    Change(
        _CORE,
        "void Caffe::DeviceQuery() {\n  cudaDeviceProp prop;\n",
        "static int device_attribute(cudaDeviceAttr attribute, int device) {\n"
        "  int value = 0;\n"
        "  CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device));\n"
        "  return value;\n"
        "}\n\n"
        "void Caffe::DeviceQuery() {\n  cudaDeviceProp prop;\n",
        _GONE,
    ),
    Change(_CORE, "prop.clockRate", "device_attribute(cudaDevAttrClockRate, device)", _GONE),
    Change(_CORE, "prop.deviceOverlap", "device_attribute(cudaDevAttrGpuOverlap, device)", _GONE),
    Change(
        _CORE,
        "prop.kernelExecTimeoutEnabled",
        "device_attribute(cudaDevAttrKernelExecTimeout, device)",
        _GONE,
    ),
    *(
        Change(
            f"src/caffe/layers/cudnn_{name}_layer.cpp",
            '#include "thrust/device_vector.h"\n',
            "",
            "only nvcc can read it, and nothing of it is used",
        )
        for name in ("bn", "softmax")
    ),
    Change(
        "src/caffe/layers/proposal_layer.cu",
        "INSTANTIATE_LAYER_GPU_FUNCS(ProposalLayer);\n",
        "template <typename Dtype>\n"
        "void ProposalLayer<Dtype>::Backward_gpu(const vector<Blob<Dtype>*>& top,\n"
        "    const vector<bool>& propagate_down, const vector<Blob<Dtype>*>& bottom) {\n"
        "  this->Backward_cpu(top, propagate_down, bottom);\n"
        "}\n\n"
        "INSTANTIATE_LAYER_GPU_FUNCS(ProposalLayer);\n",
        "it is declared and missing; the CPU's does nothing",
    ),
    # ── cuDNN 9 ───────────────────────────────────────────────────────────────────────────────────────────────────
    Change(
        _CUDNN,
        "inline const char* cudnnGetErrorString(cudnnStatus_t status) {\n",
        "#if CUDNN_VERSION < 8000\ninline const char* cudnnGetErrorString(cudnnStatus_t status) {\n",
        "cuDNN has its own since then",
    ),
    Change(
        _CUDNN,
        '  return "Unknown cudnn status";\n}\n',
        '  return "Unknown cudnn status";\n}\n#endif\n',
        "cuDNN has its own since then",
    ),
    Change(
        _CUDNN,
        "      dataType<Dtype>::type));\n#else\n",
        "      dataType<Dtype>::type));\n"
        "  CUDNN_CHECK(cudnnSetConvolutionMathType(*conv, CUDNN_FMA_MATH));\n"
        "#else\n",
        "since cuDNN 8 the default rounds float32 factors to 10 bits (TF32) on newer cards",
    ),
    Change(
        _CONVOLUTION,
        '#include "caffe/layers/cudnn_conv_layer.hpp"\n',
        '#include "caffe/layers/cudnn_conv_layer.hpp"\n#include "convolution_algorithms.hpp"\n',
        _ALGORITHMS,
    ),
    Change(
        _CONVOLUTION,
        "    CUDNN_CHECK(cudnnGetConvolutionForwardAlgorithm(handle_[0],\n",
        "    CUDNN_CHECK(cudnn::choose_forward(handle_[0],\n",
        _ALGORITHMS,
    ),
    Change(_CONVOLUTION, "      CUDNN_CONVOLUTION_FWD_SPECIFY_WORKSPACE_LIMIT,\n", "", _ALGORITHMS),
    Change(
        _CONVOLUTION,
        "    CUDNN_CHECK(cudnnGetConvolutionBackwardFilterAlgorithm(handle_[0],\n",
        "    CUDNN_CHECK(cudnn::choose_backward_filter(handle_[0],\n",
        _ALGORITHMS,
    ),
    Change(
        _CONVOLUTION, "          CUDNN_CONVOLUTION_BWD_FILTER_SPECIFY_WORKSPACE_LIMIT,\n", "", _ALGORITHMS
    ),
    Change(
        _CONVOLUTION,
        "    CUDNN_CHECK(cudnnGetConvolutionBackwardDataAlgorithm(handle_[0],\n",
        "    CUDNN_CHECK(cudnn::choose_backward_data(handle_[0],\n",
        _ALGORITHMS,
    ),
    Change(_CONVOLUTION, "          CUDNN_CONVOLUTION_BWD_DATA_SPECIFY_WORKSPACE_LIMIT,\n", "", _ALGORITHMS),
    # ── which layers are cuDNN's ──────────────────────────────────────────────────────────────────────────────────
    Change(
        _FACTORY,
        "namespace caffe {\n\n// Get convolution layer according to engine.\n",
        "namespace caffe {\n\n"
        "#ifdef USE_CUDNN\n"
        "static bool cudnn_serves() {\n"
        "  return Caffe::mode() == Caffe::GPU && !*opened::missing(opened::CUDNN);\n"
        "}\n"
        "#endif\n\n"
        "// Get convolution layer according to engine.\n",
        _ENGINE,
    ),
    Change(
        _FACTORY,
        "    if (!use_dilation) {\n      engine = ConvolutionParameter_Engine_CUDNN;\n",
        "    if (!use_dilation && cudnn_serves()) {\n      engine = ConvolutionParameter_Engine_CUDNN;\n",
        _ENGINE,
    ),
    Change(
        _FACTORY,
        "#ifdef USE_CUDNN\n    engine = PoolingParameter_Engine_CUDNN;\n#endif\n",
        "",
        _ALIKE,
    ),
    Change(
        _FACTORY,
        "#ifdef USE_CUDNN\n    engine = LRNParameter_Engine_CUDNN;\n#else\n"
        "    engine = LRNParameter_Engine_CAFFE;\n#endif\n",
        "    engine = LRNParameter_Engine_CAFFE;\n"
        "#ifdef USE_CUDNN\n"
        "    const bool across = param.lrn_param().norm_region() ==\n"
        "        LRNParameter_NormRegion_ACROSS_CHANNELS;\n"
        "    if (across && cudnn_serves()) engine = LRNParameter_Engine_CUDNN;\n"
        "#endif\n",
        f"{_ENGINE}; {_ALIKE}",
    ),
    *(_default_engine(layer) for layer in ("ReLU", "Sigmoid", "Softmax", "TanH")),
)
