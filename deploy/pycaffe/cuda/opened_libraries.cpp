// Opens cuBLAS, cuRAND and cuDNN: by name, so that the loader looks where LD_LIBRARY_PATH says, then along the run path
// of _caffe.so (the nvidia-* wheels beside it, then the toolkit), then in the system's folders.
#include "opened_libraries.hpp"

#include <dlfcn.h>

#include <string>

namespace caffe {
namespace opened {

namespace {

#define QUOTED_(text) #text
#define QUOTED(text) QUOTED_(text)

struct Opened {
  Opened(const char* file, const char* wheel) : handle(dlopen(file, RTLD_NOW | RTLD_LOCAL)) {
    if (handle == NULL) {
      const char* const cause = dlerror();
      missing = std::string("cannot open ") + file + " (" + (cause ? cause : "no cause is told") +
                "); install the package " + wheel + ", or put the library's folder into LD_LIBRARY_PATH";
    }
  }

  void* const handle;  // never closed: functions of it are held for as long as the process lives
  std::string missing;
};

const Opened& opened(Library library) {
  static const Opened cublas("libcublas.so." QUOTED(CUBLAS_VER_MAJOR), CUBLAS_WHEEL);
  static const Opened curand("libcurand.so." QUOTED(CURAND_VER_MAJOR), CURAND_WHEEL);
  if (library == CUBLAS) return cublas;
  if (library == CURAND) return curand;
#ifdef USE_CUDNN
  static const Opened cudnn("libcudnn.so." QUOTED(CUDNN_MAJOR), CUDNN_WHEEL);
#else
  static const Opened cudnn("libcudnn.so", "of a pycaffe that was built with CUDNN=1");
#endif
  return cudnn;
}

}  // namespace

const char* missing(Library library) { return opened(library).missing.c_str(); }

void* symbol(Library library, const char* name) {
  void* const handle = opened(library).handle;
  return handle == NULL ? NULL : dlsym(handle, name);
}

}  // namespace opened
}  // namespace caffe
