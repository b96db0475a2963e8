// What the Python module of BVLC 1.0 has and this Caffe's lacks: the same names, with the same meaning on one solver.
//
// A process holds one solver here: there is no NCCL, and solver_count and solver_rank are numbers that Python layers
// read, and whoever starts the process sets.
#define NPY_NO_DEPRECATED_API NPY_1_7_API_VERSION
#include <Python.h>  // NOLINT(build/include_alpha)

#include <gflags/gflags.h>
#include <glog/logging.h>

#include <boost/python.hpp>
#include <string>

#include "caffe/caffe.hpp"
#include "caffe/layers/python_layer.hpp"
#include "caffe/sgd_solvers.hpp"
#include "caffe/util/benchmark.hpp"

namespace bp = boost::python;

namespace caffe {

namespace {

int solvers = 1;
int rank = 0;

int solver_count() { return solvers; }
void set_solver_count(int count) { solvers = count; }
int solver_rank() { return rank; }
void set_solver_rank(int number) { rank = number; }
void set_multiprocess(bool) {}
bool has_nccl() { return false; }

// glog is not initialised here: it writes to stderr from the beginning, and only its flags are set.
void init_log_as(int level, bool to_stderr) {
  FLAGS_minloglevel = level;
  FLAGS_logtostderr = to_stderr;
}
void init_log_level(int level) { init_log_as(level, true); }
void init_log() { init_log_as(FLAGS_minloglevel, true); }
void log_line(const std::string& line) { LOG(INFO) << line; }

// Name protected members of solvers; never made.
struct Opened : public Solver<float> {
  static void (Solver<float>::*apply_update())() { return &Opened::ApplyUpdate; }
};
struct OpenedSgd : public SGDSolver<float> {
  static float (SGDSolver<float>::*rate())() { return &OpenedSgd::GetLearningRate; }
};

float learning_rate(SGDSolver<float>& solver) { return (solver.*OpenedSgd::rate())(); }

void share_weights(Solver<float>& solver, Net<float>& net) { net.ShareTrainedLayersWith(solver.net().get()); }

void apply_update(Solver<float>& solver) { (solver.*Opened::apply_update())(); }

// Calls a Python function with the index of a layer. It lives as long as the process: a net does not own its callbacks.
class PythonCall : public Net<float>::Callback {
 public:
  explicit PythonCall(const bp::object& function) : function_(function) {}
  virtual void run(int layer) {
    PythonsLock lock;
    function_(layer);
  }

 private:
  bp::object function_;
};

template <Net<float>::Moment moment>
void call_python(Net<float>& net, bp::object function) {
  net.add_call(moment, new PythonCall(function));
}

// Adds to a class that is exported already.
template <typename Function>
void method(const bp::object& python_class, const char* name, Function function) {
  bp::objects::add_to_namespace(python_class, name, bp::make_function(function));
}

void property(bp::object python_class, const char* name, const bp::object& getter) {
  python_class.attr(name) = bp::import("builtins").attr("property")(getter);
}

}  // namespace

void export_bvlc_1_0() {
  bp::def("init_log", &init_log);
  bp::def("init_log", &init_log_level);
  bp::def("init_log", &init_log_as);
  bp::def("log", &log_line);
  bp::def("has_nccl", &has_nccl);
  bp::def("solver_count", &solver_count);
  bp::def("set_solver_count", &set_solver_count);
  bp::def("solver_rank", &solver_rank);
  bp::def("set_solver_rank", &set_solver_rank);
  bp::def("set_multiprocess", &set_multiprocess);

  bp::class_<SolverParameter>("SolverParameter", bp::no_init)
      .add_property("max_iter", &SolverParameter::max_iter)
      .add_property("display", &SolverParameter::display)
      .add_property("layer_wise_reduce", &SolverParameter::layer_wise_reduce)
      .add_property("base_lr", &SolverParameter::base_lr, &SolverParameter::set_base_lr);

  bp::class_<Timer, shared_ptr<Timer>, boost::noncopyable>("Timer", bp::init<>())
      .def("start", &Timer::Start)
      .def("stop", &Timer::Stop)
      .add_property("ms", &Timer::MilliSeconds);

  const bp::object solver = bp::scope().attr("Solver");
  property(solver, "param", bp::make_function(&Solver<float>::param, bp::return_internal_reference<>()));
  method(solver, "share_weights", &share_weights);
  method(solver, "apply_update", &apply_update);

  static const char* const kinds[] = {"SGDSolver",     "NesterovSolver", "AdaGradSolver",
                                      "RMSPropSolver", "AdaDeltaSolver", "AdamSolver"};
  for (const char* kind : kinds) {
    property(bp::scope().attr(kind), "lr", bp::make_function(&learning_rate));
  }

  const bp::object net = bp::scope().attr("Net");
  method(net, "before_forward", &call_python<Net<float>::BEFORE_FORWARD>);
  method(net, "after_forward", &call_python<Net<float>::AFTER_FORWARD>);
  method(net, "before_backward", &call_python<Net<float>::BEFORE_BACKWARD>);
  method(net, "after_backward", &call_python<Net<float>::AFTER_BACKWARD>);
}

}  // namespace caffe
