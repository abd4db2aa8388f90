// Python module fastpart._engine: the engine as the encoder runs it, for training and tests.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <x86intrin.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "binding_planes.hpp"
#include "engine/checksum.hpp"
#include "engine/chroma.hpp"
#include "engine/model.hpp"
#include "engine/propagation.hpp"

namespace py = pybind11;

namespace fastpart {
namespace binding_detail {

void bind_filters(py::module_& module);   // binding_filters.cpp
void bind_quantisation(py::module_& module);   // binding_quantisation.cpp
void bind_session(py::module_& module);   // binding_session.cpp

using Features = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Predict  = void (GroupModel::*)(const float*, double&, double&) const;

const GroupModel& group_named(const Model& model, const std::string& name)
{
  for (int group = 0; group < kGroups; group++)
    if (name == kGroupNames[group]) return model.groups[group];
  std::string known;
  for (const char* each : kGroupNames) known += std::string(known.empty() ? "" : ", ") + each;
  throw std::runtime_error("group '" + name + "', wanted one of " + known);
}

// Rows of X; throws unless each is one value per feature of the model.
py::ssize_t rows_of(const Model& model, const Features& X)
{
  if (X.ndim() != 2 || X.shape(1) != py::ssize_t(model.features.size()))
    throw std::runtime_error("features of shape " + std::string(py::str(X.attr("shape"))) + ", wanted (n, " +
                             std::to_string(model.features.size()) + ")");
  return X.shape(0);
}

template <Predict predict>
py::array_t<double> predict_rows(const Model& model, const std::string& group, const Features& X)
{
  const GroupModel&   ensembles = group_named(model, group);
  const py::ssize_t   rows      = rows_of(model, X);
  py::array_t<double> scores({rows, py::ssize_t(2)});
  for (py::ssize_t row = 0; row < rows; row++)
    (ensembles.*predict)(X.data(row, 0), *scores.mutable_data(row, 0), *scores.mutable_data(row, 1));
  return scores;
}

double benchmark(const Model& model, const std::string& group, const Features& X, int repeats)
{
  const GroupModel& ensembles = group_named(model, group);
  const py::ssize_t rows      = rows_of(model, X);
  if (rows == 0 || repeats < 1) throw std::runtime_error("no prediction to time, wanted one row and one repeat or more");
  volatile double sink    = 0;
  uint64_t        fastest = UINT64_MAX;
  for (int repeat = 0; repeat < repeats; repeat++)
  {
    const uint64_t start = __rdtsc();
    for (py::ssize_t row = 0; row < rows; row++)
    {
      double loss, time;
      ensembles.predict(X.data(row, 0), loss, time);
      sink = loss + time;
    }
    fastest = std::min<uint64_t>(fastest, __rdtsc() - start);
  }
  (void)sink;
  return double(fastest) / double(rows);
}

void bind_model(py::module_& module)
{
  py::class_<PolicyTables>(module, "PolicyTables")
      .def_readonly("qp_knots", &PolicyTables::qp_knots)
      .def_readonly("log_kappa", &PolicyTables::log_kappa)
      .def_property_readonly("log_layer_weight", [](const PolicyTables& tables) {
        return std::vector<float>(tables.log_layer_weight, tables.log_layer_weight + kLayers);
      })
      .def_property_readonly("steering", [](const PolicyTables& tables) {
        const auto* values = reinterpret_cast<const float*>(&tables.steering);
        return std::vector<float>(values, values + (tables.has_steering ? sizeof(SteeringTables) / sizeof(float) : 0));
      }, "Values of SteeringTables in their order; none if the model has none.");

  py::class_<Model>(module, "Model", "A model file, parsed. ValueError if the bytes are not a sound model.")
      .def(py::init([](const py::bytes& file) {
             const auto bytes = std::string_view(file);
             return Model::parse(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
           }),
           py::arg("file"))
      .def_readonly("features", &Model::features)
      .def_readonly("metadata", &Model::metadata)
      .def_readonly("checksum", &Model::checksum)
      .def_readonly("tables", &Model::tables)
      .def("trees",
           [](const Model& model, const std::string& group) {
             const GroupModel& ensembles = group_named(model, group);
             return py::make_tuple(ensembles.loss_trees(), ensembles.time_trees());
           },
           py::arg("group"), "Number of loss and of time trees of a group.")
      .def("predict", &predict_rows<&GroupModel::predict>, py::arg("group"), py::arg("X"),
           "Raw scores (loss, time), float64 of shape (n, 2), for float32 features of shape (n, features).")
      .def("predict_plain", &predict_rows<&GroupModel::predict_plain>, py::arg("group"), py::arg("X"),
           "The same scores by a plain walk of the trees in double precision.");

  module.def("benchmark", &benchmark, py::arg("model"), py::arg("group"), py::arg("X"), py::arg("repeats"),
             "Time-stamp-counter cycles of one prediction, mean over the rows of X in the fastest repeat.");
}

using Planes = std::array<Samples, 3>;

PicturePlanes planes_of(const Planes& planes, py::ssize_t height, py::ssize_t width)
{
  return {plane_within(planes[0], height, width), plane_within(planes[1], height / 2, width / 2),
          plane_within(planes[2], height / 2, width / 2)};
}

double chroma_detail_of(const std::vector<Planes>& pictures)
{
  ChromaDetail detail;
  if (pictures.empty()) return detail.ratio();
  const Samples& luma = pictures.front()[0];
  if (luma.ndim() != 2) throw std::runtime_error("luma of " + std::to_string(luma.ndim()) + " dimensions, wanted 2");
  std::vector<PicturePlanes> planes;
  for (const Planes& picture : pictures) planes.push_back(planes_of(picture, luma.shape(0), luma.shape(1)));
  for (size_t i = 0; i < planes.size(); i++)
    detail.add(planes[i], i + 1 < planes.size() ? &planes[i + 1] : nullptr, int(luma.shape(1)), int(luma.shape(0)));
  return detail.ratio();
}

void bind_chroma(py::module_& module)
{
  module.def("chroma_detail", &chroma_detail_of, py::arg("pictures"),
             "ChromaDetail of consecutive pictures, each (Y, Cb, Cr) of 4:2:0, int16.");
  module.def("chroma_qp_offset", &chroma_qp_offset, py::arg("detail_ratio"), py::arg("qp"),
             "Offset of the chroma QP for a source of this detail at this base QP, 0 or below.");
  module.def("qp_increment", &qp_increment, py::arg("chroma_qp_offset"),
             "By how much the base QP rises with this offset, to give back the rate.");
}

py::array_t<float> importance_of(const Samples& pictures, int bit_depth, int gop, int intra_period, double base_qp)
{
  if (pictures.ndim() != 3 || pictures.shape(1) < kMotionBlock || pictures.shape(2) < kMotionBlock)
    throw std::runtime_error("pictures of shape " + std::string(py::str(pictures.attr("shape"))) +
                             ", wanted (pictures, height, width) of 16 samples or more");
  const int   height = int(pictures.shape(1)), width = int(pictures.shape(2));
  Propagation propagation(width, height, bit_depth, gop, intra_period, base_qp);
  for (py::ssize_t i = 0; i < pictures.shape(0); i++) propagation.add({pictures.data(i, 0, 0), width});
  py::array_t<float> all(std::vector<py::ssize_t>{pictures.shape(0), height / kMotionBlock, width / kMotionBlock});
  float*             out = all.mutable_data();
  for (const std::vector<float>& picture : propagation.importance()) out = std::copy(picture.begin(), picture.end(), out);
  return all;
}

QpOffsets qp_offsets_of(const Features& importance, int width, int height, double strength)
{
  const int rows = height / kMotionBlock, columns = width / kMotionBlock;
  if (importance.ndim() != 2 || importance.shape(0) != rows || importance.shape(1) != columns)
    throw std::runtime_error("importance of shape " + std::string(py::str(importance.attr("shape"))) +
                             ", wanted that of the blocks of " + std::to_string(width) + "x" + std::to_string(height));
  return {{importance.data(), importance.data() + importance.size()}, width, height, strength};
}

std::vector<std::array<int, 4>> group_order_of(int start, int gop, int pictures, bool intra)
{
  std::vector<std::array<int, 4>> order;
  for (const CodedPicture& each : group_order(start, gop, pictures, intra))
    order.push_back({each.poc, each.layer, each.past, each.future});
  return order;
}

void bind_propagation(py::module_& module)
{
  module.def("group_order", &group_order_of, py::arg("start"), py::arg("gop"), py::arg("pictures"), py::arg("intra"),
             "Pictures after POC start up to start + gop in coding order: (POC, layer, past, future reference or -1).");
  module.def("importance", &importance_of, py::arg("pictures"), py::arg("bit_depth"), py::arg("gop"), py::arg("intra_period"),
             py::arg("base_qp"),
             "log2 importance of the 16x16 blocks of consecutive pictures, luma, int16 of shape (n, height, width).");
  py::class_<QpOffsets>(module, "QpOffsets", "QP offsets within a picture of this importance.")
    .def(py::init(&qp_offsets_of), py::arg("importance"), py::arg("width"), py::arg("height"), py::arg("strength"))
    .def("at", &QpOffsets::at, py::arg("x"), py::arg("y"), py::arg("width"), py::arg("height"),
         "Of these samples: -strength for every doubling of their mean importance against the picture's.");
}

}  // namespace binding_detail
}  // namespace fastpart

PYBIND11_MODULE(_engine, module)
{
  py::register_exception_translator([](std::exception_ptr error) {
    try
    {
      if (error) std::rethrow_exception(error);
    }
    catch (const py::builtin_exception&)
    {
      throw;                                   // pybind11 knows the Python type of its own
    }
    catch (const std::runtime_error& known)
    {
      PyErr_SetString(PyExc_ValueError, known.what());
    }
  });
  module.def(
      "crc32",
      [](const py::bytes& data, uint32_t seed) {
        const auto bytes = std::string_view(data);
        return fastpart::crc32(bytes.data(), bytes.size(), seed);
      },
      py::arg("data"), py::arg("seed") = 0, "CRC-32 (IEEE) of bytes.");
  fastpart::binding_detail::bind_model(module);
  fastpart::binding_detail::bind_chroma(module);
  fastpart::binding_detail::bind_propagation(module);
  fastpart::binding_detail::bind_filters(module);
  fastpart::binding_detail::bind_quantisation(module);
  fastpart::binding_detail::bind_session(module);
}
