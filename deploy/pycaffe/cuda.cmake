# The device's half of pycaffe: Caffe's kernels, ours beside them (cuda/), for CUDA 12 and 13, and cuDNN 9.
# build.py gives CMAKE_CUDA_COMPILER, CMAKE_CUDA_ARCHITECTURES, CUDNN, CUDA_INCLUDE and CUDA_WHEELS (cuda_toolkit.py).
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
option(CUDNN "with cuDNN, where it is found at run time" ON)
set(CUDA_INCLUDE "" CACHE STRING "folders with the headers of cuBLAS, cuRAND and cuDNN")
set(CUDA_RUN_PATH "" CACHE STRING "where those libraries may be at run time, beside the system's own folders")
set(CUDA_WHEELS "" CACHE STRING "the packages of cuBLAS, cuRAND and cuDNN, for the message when one is missing")

set(OURS ${CMAKE_CURRENT_SOURCE_DIR}/cuda)
target_include_directories(settings SYSTEM INTERFACE ${OURS} ${CUDA_INCLUDE} ${CUDAToolkit_INCLUDE_DIRS})
if(CUDNN)
  target_compile_definitions(settings INTERFACE USE_CUDNN)
endif()

file(GLOB_RECURSE kernels ${CAFFE_SOURCE}/src/caffe/*.cu)
list(FILTER kernels EXCLUDE REGEX "/src/caffe/test/")
file(GLOB our_kernels CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/layers/*.cu)
target_sources(_caffe PRIVATE ${kernels} ${our_kernels} ${OURS}/devices.cpp ${OURS}/layers_on_host.cpp ${OURS}/opened_libraries.cpp)
list(GET CUDA_WHEELS 0 cublas)
list(GET CUDA_WHEELS 1 curand)
list(GET CUDA_WHEELS 2 cudnn)
set_property(SOURCE ${OURS}/opened_libraries.cpp PROPERTY COMPILE_DEFINITIONS
  CUBLAS_WHEEL="${cublas}" CURAND_WHEEL="${curand}" CUDNN_WHEEL="${cudnn}")

# The runtime is linked in, so that the same wheel trains on the CPU of a machine without any of CUDA; its names stay
# inside, out of the way of another runtime in the same process.
set_target_properties(_caffe PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_RUNTIME_LIBRARY Static)
target_link_libraries(_caffe PRIVATE CUDA::cudart_static ${CMAKE_DL_LIBS})
target_link_options(_caffe PRIVATE LINKER:--exclude-libs,libcudart_static.a)
set_target_properties(_caffe PROPERTIES INSTALL_RPATH "$ORIGIN;${CUDA_RUN_PATH}")
