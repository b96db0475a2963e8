// caffe._caffe.DoubleLayer: one layer in float64, in the current mode, with NumPy arrays for its blobs. Caffe's Python
// module has float32 alone, too coarse to check a gradient by differences.
#include <Python.h>  // NOLINT(build/include_alpha)

#include <boost/python.hpp>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "caffe/caffe.hpp"

namespace bp = boost::python;

namespace caffe {

namespace {

typedef Blob<double> DoubleBlob;

class DoubleLayer {
 public:
  // The layer of a prototxt's text. Its bottoms get their shapes with the arrays of the first forward pass.
  explicit DoubleLayer(const std::string& text) {
    if (!google::protobuf::TextFormat::ParseFromString(text, &param_)) {
      throw std::runtime_error("no text of a LayerParameter");
    }
    for (int t = 0; t < param_.top_size(); ++t) {
      top_blobs_.push_back(std::unique_ptr<DoubleBlob>(new DoubleBlob));
      tops_.push_back(top_blobs_.back().get());
    }
  }

  // One list of nested sequences or arrays for the bottoms; returns a list of arrays for the tops.
  bp::list forward(const bp::list& arrays) {
    if (bottoms_.empty()) {
      for (int b = 0; b < bp::len(arrays); ++b) {
        bottom_blobs_.push_back(std::unique_ptr<DoubleBlob>(new DoubleBlob));
        bottoms_.push_back(bottom_blobs_.back().get());
      }
    }
    fill(bottoms_, arrays, &DoubleBlob::mutable_cpu_data, true);
    if (!layer_) {
      layer_ = LayerRegistry<double>::CreateLayer(param_);
      layer_->SetUp(bottoms_, tops_);
    }
    layer_->Forward(bottoms_, tops_);
    return arrays_of(tops_, &DoubleBlob::cpu_data);
  }

  // Arrays for the tops' gradients and flags of the bottoms that want one; returns the bottoms' gradients, a zero for
  // those that want none. The gradients of the parameters begin at 0.
  bp::list backward(const bp::list& arrays, const bp::list& wanted) {
    fill(tops_, arrays, &DoubleBlob::mutable_cpu_diff, false);
    std::vector<bool> propagate;
    for (int b = 0; b < bp::len(wanted); ++b) propagate.push_back(bp::extract<bool>(wanted[b]));
    if (!layer_ || propagate.size() != bottoms_.size()) {
      throw std::runtime_error("backward comes after forward, with one flag for each bottom");
    }
    for (const auto& blob : layer_->blobs()) caffe_set(blob->count(), 0., blob->mutable_cpu_diff());
    for (DoubleBlob* blob : bottoms_) caffe_set(blob->count(), 0., blob->mutable_cpu_diff());
    layer_->Backward(tops_, propagate, bottoms_);
    return arrays_of(bottoms_, &DoubleBlob::cpu_diff);
  }

  bp::list parameters() { return arrays_of(parameter_blobs(), &DoubleBlob::cpu_data); }
  bp::list parameter_gradients() { return arrays_of(parameter_blobs(), &DoubleBlob::cpu_diff); }
  void set_parameters(const bp::list& arrays) {
    fill(parameter_blobs(), arrays, &DoubleBlob::mutable_cpu_data, false);
  }

 private:
  std::vector<DoubleBlob*> parameter_blobs() const {
    std::vector<DoubleBlob*> blobs;
    if (layer_) {
      for (const auto& blob : layer_->blobs()) blobs.push_back(blob.get());
    }
    return blobs;
  }

  static void fill(const std::vector<DoubleBlob*>& blobs, const bp::list& arrays, double* (DoubleBlob::*memory)(),
                   bool reshape) {
    const bp::object numpy = bp::import("numpy");
    if (bp::len(arrays) != static_cast<long>(blobs.size())) throw std::runtime_error("one array is needed for each blob");
    for (size_t b = 0; b < blobs.size(); ++b) {
      const bp::object given = arrays[b];
      const bp::object array = numpy.attr("ascontiguousarray")(given, "float64");
      // A scalar blob has no axes; ascontiguousarray gives it one.
      std::vector<int> shape;
      const bp::object sizes = numpy.attr("shape")(given);
      for (int a = 0; a < bp::len(sizes); ++a) shape.push_back(bp::extract<int>(sizes[a]));
      if (reshape) blobs[b]->Reshape(shape);
      Py_buffer view;
      if (PyObject_GetBuffer(array.ptr(), &view, PyBUF_SIMPLE) < 0) bp::throw_error_already_set();
      const bool fits = static_cast<size_t>(view.len) == blobs[b]->count() * sizeof(double);
      if (fits) std::copy_n(static_cast<const double*>(view.buf), blobs[b]->count(), (blobs[b]->*memory)());
      PyBuffer_Release(&view);
      if (!fits) throw std::runtime_error("an array is not of its blob's size");
    }
  }

  static bp::list arrays_of(const std::vector<DoubleBlob*>& blobs, const double* (DoubleBlob::*memory)() const) {
    const bp::object numpy = bp::import("numpy");
    bp::list arrays;
    for (DoubleBlob* blob : blobs) {
      bp::list shape;
      for (int size : blob->shape()) shape.append(size);
      bp::object array = numpy.attr("empty")(bp::tuple(shape), "float64");
      Py_buffer view;
      if (PyObject_GetBuffer(array.ptr(), &view, PyBUF_WRITABLE) < 0) bp::throw_error_already_set();
      std::copy_n((blob->*memory)(), blob->count(), static_cast<double*>(view.buf));
      PyBuffer_Release(&view);
      arrays.append(array);
    }
    return arrays;
  }

  LayerParameter param_;
  std::vector<std::unique_ptr<DoubleBlob> > bottom_blobs_, top_blobs_;
  std::vector<DoubleBlob*> bottoms_, tops_;
  shared_ptr<Layer<double> > layer_;
};

}  // namespace

void export_double_layer() {
  bp::class_<DoubleLayer, boost::noncopyable>("DoubleLayer", bp::init<std::string>())
      .def("forward", &DoubleLayer::forward)
      .def("backward", &DoubleLayer::backward)
      .def("parameters", &DoubleLayer::parameters)
      .def("parameter_gradients", &DoubleLayer::parameter_gradients)
      .def("set_parameters", &DoubleLayer::set_parameters);
}

}  // namespace caffe
