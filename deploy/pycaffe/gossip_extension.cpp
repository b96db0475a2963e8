// caffe._gossip: what elastic training needs of a Caffe solver and pycaffe does not offer.
//
// The learning rate of the next step, the momentum as NumPy views, a step without Python's lock, one update by hand,
// device pointers, what cards there are, and the log level. Compiled from Caffe's own headers and linked against
// _caffe.so, so that both modules share one set of classes and one registry of boost.python. Typed in _gossip.pyi.
#define NPY_NO_DEPRECATED_API NPY_1_7_API_VERSION
#include <Python.h>  // NOLINT(build/include_alpha)

#include <boost/python.hpp>
#include <numpy/arrayobject.h>

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "caffe/caffe.hpp"
#include "caffe/sgd_solvers.hpp"
#include "glog/logging.h"
#ifndef CPU_ONLY
#include "devices.hpp"
#endif

namespace bp = boost::python;

namespace {

typedef caffe::Blob<float> Blob;
typedef caffe::Solver<float> Solver;
typedef caffe::SGDSolver<float> SgdSolver;

// Names the protected members of a solver; never made. A pointer to a member that is named through a derived class has
// the base's type, so it can be used on any solver.
struct Opened : public Solver {
  static void (Solver::*apply_update())() { return &Opened::ApplyUpdate; }
  static int Solver::*iteration() { return &Opened::iter_; }
  static caffe::SolverParameter Solver::*parameters() { return &Opened::param_; }
};

struct OpenedSgd : public SgdSolver {
  static float (SgdSolver::*rate())() { return &OpenedSgd::GetLearningRate; }
};

// Python's lock, given up for as long as this lives. An exception that passes takes it back before boost.python
// hands it to Python; its type and value wait in this thread's state meanwhile.
class WithoutPythonsLock {
 public:
  WithoutPythonsLock() : state_(PyEval_SaveThread()) {}
  ~WithoutPythonsLock() { PyEval_RestoreThread(state_); }

 private:
  PyThreadState* const state_;
};

void fail(PyObject* type, const std::string& message) {
  PyErr_SetString(type, message.c_str());
  bp::throw_error_already_set();
}

SgdSolver& with_history(Solver& solver) {
  SgdSolver* const sgd = dynamic_cast<SgdSolver*>(&solver);
  if (sgd == NULL) fail(PyExc_TypeError, std::string("a solver of type '") + solver.type() + "' has no history");
  return *sgd;
}

void step(Solver& solver, int iterations) {
  WithoutPythonsLock unlocked;
  solver.Step(iterations);
}

void apply_update(Solver& solver) { (solver.*Opened::apply_update())(); }

void set_learning_rate(Solver& solver, double rate) {
  caffe::SolverParameter& parameters = solver.*Opened::parameters();
  parameters.set_lr_policy("fixed");
  parameters.set_base_lr(static_cast<float>(rate));
}

float learning_rate(Solver& solver) {
  static const std::set<std::string> policies = {"fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid"};
  const std::string& policy = solver.param().lr_policy();
  if (!policies.count(policy)) fail(PyExc_ValueError, "Caffe has no lr_policy '" + policy + "'");  // it would abort
  if (policy == "step" && solver.param().stepsize() <= 0) {
    fail(PyExc_ValueError, "lr_policy 'step' needs a stepsize above 0");  // Caffe would divide by it
  }
  return (with_history(solver).*OpenedSgd::rate())();
}

void set_iteration(Solver& solver, int iteration) { solver.*Opened::iteration() = iteration; }

bp::list history(bp::object self) {
  SgdSolver& solver = with_history(bp::extract<Solver&>(self));
  bp::list views;
  for (const auto& blob : solver.history()) {
    std::vector<npy_intp> shape(blob->shape().begin(), blob->shape().end());
    const bp::handle<> view(PyArray_SimpleNewFromData(
        static_cast<int>(shape.size()), shape.data(), NPY_FLOAT32, blob->mutable_cpu_data()));
    Py_INCREF(self.ptr());  // PyArray_SetBaseObject takes this reference over
    if (PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(view.get()), self.ptr()) < 0) {
      bp::throw_error_already_set();
    }
    views.append(bp::object(view));
  }
  return views;
}

#ifdef CPU_ONLY
const bool built_for_cuda = false;
void no_gpu() { fail(PyExc_RuntimeError, "this pycaffe was built for the CPU only"); }
std::uintptr_t gpu_data_ptr(Blob&) { return no_gpu(), 0; }
std::uintptr_t gpu_diff_ptr(Blob&) { return no_gpu(), 0; }
int device_count() { return no_gpu(), 0; }
bp::tuple device(int) { return no_gpu(), bp::tuple(); }
bp::dict missing_libraries() { return no_gpu(), bp::dict(); }
#else
const bool built_for_cuda = true;
std::uintptr_t gpu_data_ptr(Blob& blob) { return reinterpret_cast<std::uintptr_t>(blob.mutable_gpu_data()); }
std::uintptr_t gpu_diff_ptr(Blob& blob) { return reinterpret_cast<std::uintptr_t>(blob.mutable_gpu_diff()); }

int device_count() {
  std::string reason;
  const int count = caffe::devices::count(&reason);
  if (count < 0) fail(PyExc_RuntimeError, reason);
  return count;
}

bp::tuple device(int index) {
  caffe::devices::Device found;
  std::string reason;
  if (!caffe::devices::describe(index, &found, &reason)) fail(PyExc_RuntimeError, reason);
  return bp::make_tuple(found.name, found.capability, found.bus, found.memory_bytes, found.free_bytes);
}

bp::dict missing_libraries() {
  using caffe::opened::missing;
  bp::dict reasons;
  if (const std::string reason = missing(caffe::opened::CUBLAS); !reason.empty()) reasons["cuBLAS"] = reason;
  if (const std::string reason = missing(caffe::opened::CURAND); !reason.empty()) reasons["cuRAND"] = reason;
  if (const std::string reason = missing(caffe::opened::CUDNN); !reason.empty()) reasons["cuDNN"] = reason;
  return reasons;
}
#endif

void set_log_level(int level) { FLAGS_minloglevel = level; }

void* import_numpy() {
  import_array();
  return NULL;
}

}  // namespace

BOOST_PYTHON_MODULE(_gossip) {
  bp::import("caffe._caffe");  // registers the classes that are taken here
  import_numpy();
  if (PyErr_Occurred()) bp::throw_error_already_set();
  const bp::docstring_options only_ours(true, false, false);
  bp::def("step", &step, (bp::arg("solver"), bp::arg("iterations")),
          "Run iterations with Python's lock released; what a Python layer raises comes out as it is.");
  bp::def("apply_update", &apply_update, (bp::arg("solver")), "Apply one update from the gradients as they stand.");
  bp::def("set_learning_rate", &set_learning_rate, (bp::arg("solver"), bp::arg("rate")),
          "Set the rate that every further step uses: lr_policy becomes 'fixed', base_lr the rate.");
  bp::def("learning_rate", &learning_rate, (bp::arg("solver")),
          "The rate that the next step uses. Raises ValueError for an lr_policy that Caffe does not know.");
  bp::def("set_iteration", &set_iteration, (bp::arg("solver"), bp::arg("iteration")),
          "Set the number of the next iteration.");
  bp::def("history", &history, (bp::arg("solver")),
          "The momentum history: one writable float32 view per blob, in the order of the learnable parameters.\n\n"
          "AdaDelta and Adam keep a second round of the same shapes. Raises TypeError for a solver without history.");
  bp::def("gpu_data_ptr", &gpu_data_ptr, (bp::arg("blob")),
          "The address of a blob's data on the device. Raises RuntimeError when built for the CPU only.");
  bp::def("gpu_diff_ptr", &gpu_diff_ptr, (bp::arg("blob")),
          "The address of a blob's gradient on the device. Raises RuntimeError when built for the CPU only.");
  bp::scope().attr("built_for_cuda") = built_for_cuda;
  bp::def("device_count", &device_count,
          "How many cards CUDA sees. Raises RuntimeError with CUDA's reason, or when built for the CPU only.");
  bp::def("device", &device, (bp::arg("index")),
          "A card's name, compute capability, bus address, and its memory and what of it is free, in bytes.\n\n"
          "It takes some of that memory, for as long as the process lives. Raises RuntimeError with CUDA's reason.");
  bp::def("missing_libraries", &missing_libraries,
          "Of cuBLAS, cuRAND and cuDNN those that cannot be opened, each with why and what to do. Only cuDNN can be "
          "done without. Raises RuntimeError when built for the CPU only.");
  bp::def("set_log_level", &set_log_level, (bp::arg("level")), "Least level that Caffe logs: 0 info … 3 fatal.");
}
