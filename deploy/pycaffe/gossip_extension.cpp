// caffe._gossip: what elastic training needs of a Caffe solver and pycaffe does not offer.
//
// The learning rate of the next step, the momentum as NumPy views, a step without Python's lock, and one update by
// hand. Compiled from Caffe's own headers, linked against _caffe.so.
#define NPY_NO_DEPRECATED_API NPY_1_7_API_VERSION
#include <Python.h>  // NOLINT(build/include_alpha)

#include <boost/python.hpp>
#include <numpy/arrayobject.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "caffe/caffe.hpp"
#include "caffe/sgd_solvers.hpp"
#include "glog/logging.h"

namespace bp = boost::python;

namespace {

typedef caffe::Solver<float> Solver;
typedef caffe::SGDSolver<float> SgdSolver;

// Names the protected members of a solver; never made. A pointer to a member that is named through a derived class has
// the base's type, so it can be used on any solver.
struct Opened : public Solver {
  static void (Solver::*apply_update())() { return &Opened::ApplyUpdate; }
  static int Solver::*iteration() { return &Opened::iter_; }
  static caffe::SolverParameter Solver::*parameters() { return &Opened::param_; }
};

// Python's lock, given up for as long as this lives; taken again before an exception reaches Python.
class WithoutPythonsLock {
 public:
  WithoutPythonsLock() : state_(PyEval_SaveThread()) {}
  ~WithoutPythonsLock() { PyEval_RestoreThread(state_); }

 private:
  PyThreadState* state_;
};

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

double learning_rate(Solver& solver) { return solver.param().base_lr(); }

void set_iteration(Solver& solver, int iteration) { solver.*Opened::iteration() = iteration; }

bp::list history(bp::object self) {
  Solver& solver = bp::extract<Solver&>(self);
  SgdSolver* sgd = dynamic_cast<SgdSolver*>(&solver);
  if (sgd == NULL) {
    PyErr_SetString(PyExc_TypeError, "this solver keeps no momentum history");
    bp::throw_error_already_set();
  }
  bp::list views;
  for (const auto& blob : sgd->history()) {
    std::vector<npy_intp> shape(blob->shape().begin(), blob->shape().end());
    PyObject* view = PyArray_SimpleNewFromData(
        static_cast<int>(shape.size()), shape.data(), NPY_FLOAT32, blob->mutable_cpu_data());
    Py_INCREF(self.ptr());  // PyArray_SetBaseObject takes this reference over
    PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(view), self.ptr());
    views.append(bp::object(bp::handle<>(view)));
  }
  return views;
}

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
  bp::def("step", &step, (bp::arg("solver"), bp::arg("iterations")),
          "Run iterations with Python's lock released; a Python layer's exception comes out as it is.");
  bp::def("apply_update", &apply_update, (bp::arg("solver")), "Apply one update from the gradients as they stand.");
  bp::def("set_learning_rate", &set_learning_rate, (bp::arg("solver"), bp::arg("rate")),
          "Set the rate that every further step uses.");
  bp::def("learning_rate", &learning_rate, (bp::arg("solver")), "The rate that the next step uses.");
  bp::def("set_iteration", &set_iteration, (bp::arg("solver"), bp::arg("iteration")),
          "Set the number of the next iteration.");
  bp::def("history", &history, (bp::arg("solver")), "The momentum history: one writable float32 view per blob.");
  bp::def("set_log_level", &set_log_level, (bp::arg("level")), "Least level that Caffe logs: 0 info … 3 fatal.");
}
