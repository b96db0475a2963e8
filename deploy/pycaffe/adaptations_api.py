"""What is added to Caffe's solver, net and Python module after BVLC 1.0: checked like adaptations.py."""

from __future__ import annotations

from adaptations import Change

_SOLVER = "src/caffe/solver.cpp"
_NET = "src/caffe/net.cpp"
_NET_HEADER = "include/caffe/net.hpp"
_INIT = "python/caffe/__init__.py"
_WEIGHTS = "BVLC 1.0: SolverParameter.weights names the models that the nets begin with"
_CALLS = "BVLC 1.0: Net.before_forward and its like call Python around each layer"
_NAMES = "BVLC 1.0's names in the package (bindings/bvlc_1_0.cpp)"

CHANGES = (
    Change(
        _SOLVER,
        "template <typename Dtype>\nvoid Solver<Dtype>::InitTrainNet() {\n",
        "template <typename Dtype>\n"
        "static void LoadWeights(const SolverParameter& param, Net<Dtype>* net) {\n"
        "  for (int i = 0; i < param.weights_size(); ++i) {\n"
        "    std::stringstream files(param.weights(i));\n"
        "    for (string file; std::getline(files, file, ',');) {\n"
        '      const size_t begin = file.find_first_not_of(" \\t\\n");\n'
        "      if (begin == string::npos) continue;\n"
        '      net->CopyTrainedLayersFrom(file.substr(begin, file.find_last_not_of(" \\t\\n") - begin + 1));\n'
        "    }\n"
        "  }\n"
        "}\n\n"
        "template <typename Dtype>\nvoid Solver<Dtype>::InitTrainNet() {\n",
        _WEIGHTS,
    ),
    Change(
        _SOLVER,
        "    net_.reset(new Net<Dtype>(net_param, root_solver_->net_.get()));\n  }\n",
        "    net_.reset(new Net<Dtype>(net_param, root_solver_->net_.get()));\n  }\n"
        "  LoadWeights(param_, net_.get());\n",
        _WEIGHTS,
    ),
    Change(
        _SOLVER,
        "    test_nets_[i]->set_debug_info(param_.debug_info());\n",
        "    test_nets_[i]->set_debug_info(param_.debug_info());\n    LoadWeights(param_, test_nets_[i].get());\n",
        _WEIGHTS,
    ),
    Change(_SOLVER, "#include <map>\n", "#include <map>\n#include <sstream>\n", _WEIGHTS),
    Change(
        _NET_HEADER,
        "  /// The root net that actually holds the shared layers in data parallelism\n",
        "  vector<Callback*> calls_[4];\n"
        "  /// The root net that actually holds the shared layers in data parallelism\n",
        _CALLS,
    ),
    Change(
        _NET_HEADER,
        "class Net {\n public:\n",
        "class Net {\n public:\n"
        "  /// Called with the index of a layer, around its pass.\n"
        "  class Callback {\n"
        "   public:\n"
        "    virtual ~Callback() {}\n"
        "    virtual void run(int layer) = 0;\n"
        "  };\n"
        "  enum Moment { BEFORE_FORWARD, AFTER_FORWARD, BEFORE_BACKWARD, AFTER_BACKWARD };\n"
        "  /// The net does not own the callback.\n"
        "  void add_call(Moment moment, Callback* callback) { calls_[moment].push_back(callback); }\n"
        "  void call(Moment moment, int layer) {\n"
        "    for (size_t c = 0; c < calls_[moment].size(); ++c) calls_[moment][c]->run(layer);\n"
        "  }\n\n",
        _CALLS,
    ),
    Change(
        _NET,
        "    Dtype layer_loss = layers_[i]->Forward(bottom_vecs_[i], top_vecs_[i]);\n",
        "    call(BEFORE_FORWARD, i);\n"
        "    Dtype layer_loss = layers_[i]->Forward(bottom_vecs_[i], top_vecs_[i]);\n",
        _CALLS,
    ),
    Change(
        _NET,
        "    if (debug_info_) { ForwardDebugInfo(i); }\n",
        "    if (debug_info_) { ForwardDebugInfo(i); }\n    call(AFTER_FORWARD, i);\n",
        _CALLS,
    ),
    Change(
        _NET,
        "    if (layer_need_backward_[i]) {\n      layers_[i]->Backward(\n",
        "    call(BEFORE_BACKWARD, i);\n    if (layer_need_backward_[i]) {\n      layers_[i]->Backward(\n",
        _CALLS,
    ),
    Change(
        _NET,
        "      if (debug_info_) { BackwardDebugInfo(i); }\n    }\n",
        "      if (debug_info_) { BackwardDebugInfo(i); }\n    }\n    call(AFTER_BACKWARD, i);\n",
        _CALLS,
    ),
    Change(
        "python/caffe/_caffe.cpp",
        "namespace caffe {\n\n// For Python, for now,",
        "namespace caffe {\n\nvoid export_bvlc_1_0();\nvoid export_double_layer();\n\n// For Python, for now,",
        _NAMES,
    ),
    Change(
        "python/caffe/_caffe.cpp",
        "  // boost python expects a void (missing) return value, while import_array\n",
        "  export_bvlc_1_0();\n  export_double_layer();\n\n"
        "  // boost python expects a void (missing) return value, while import_array\n",
        _NAMES,
    ),
    Change(
        _INIT,
        "from ._caffe import set_mode_cpu,",
        "from ._caffe import init_log, log, has_nccl, solver_count, set_solver_count, solver_rank, set_solver_rank\n"
        "from ._caffe import set_multiprocess, SolverParameter, Timer\n"
        "from ._caffe import set_mode_cpu,",
        _NAMES,
    ),
)
