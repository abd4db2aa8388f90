// Python view of the engine's session, so that its bookkeeping can be tested without an encoder.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <stdexcept>
#include <string>

#include "engine/features.hpp"
#include "engine/session.hpp"
#include "engine/steering.hpp"

namespace py = pybind11;

namespace fastpart {
namespace binding_detail {

using LumaArray = py::array_t<int16_t, py::array::c_style | py::array::forcecast>;

// Steering with tables of its own.
struct OwnSteering {
  SteeringTables tables;
  Steering       steering;
  OwnSteering(const SteeringTables& values, double target) : tables(values), steering(tables, target) {}
};

std::unique_ptr<OwnSteering> make_steering(const std::vector<float>& values, double target)
{
  SteeringTables tables;
  if (values.size() * sizeof(float) != sizeof tables)
    throw std::runtime_error(std::to_string(values.size()) + " values, wanted " + std::to_string(sizeof tables / sizeof(float)));
  std::memcpy(static_cast<void*>(&tables), values.data(), sizeof tables);
  return std::make_unique<OwnSteering>(tables, target);
}

Plane plane_of(const LumaArray& luma)
{
  return {luma.data(), luma.shape(1)};
}

void bind_session(py::module_& module)
{
  module.def("feature_names", &feature_names, "Names of the features, in the order of the vector.");

  module.def("target_of_size", &target_of_size, py::arg("small"), py::arg("hd"), py::arg("samples"),
             "Target for pictures of so many luma samples, of those for 832x480 and for 1920x1080 (0: none).");
  py::class_<OwnSteering>(module, "Steering", "Chooses kappa by picture; see engine/steering.hpp.")
      .def(py::init(&make_steering), py::arg("tables"), py::arg("target"))
      .def("begin_picture",
           [](OwnSteering& own, int qp, int temporal_id, bool intra, double samples, double log_kappa) {
             return own.steering.begin_picture(qp, temporal_id, intra, samples, log_kappa);
           },
           py::arg("qp"), py::arg("temporal_id"), py::arg("intra"), py::arg("samples"), py::arg("log_kappa") = 0.0)
      .def("end_picture",
           [](OwnSteering& own, double samples, double search, const std::array<double, kGroups>& skipped,
              const std::array<double, 3>& control, bool filtered) {
             Effort effort;
             effort.pictures = 1;
             effort.filtered = filtered;
             effort.samples  = samples;
             effort.search   = search;
             effort.skipped  = skipped;
             effort.controls = control[0];
             effort.control_estimated = control[1];
             effort.control_search    = control[2];
             own.steering.end_picture(effort);
           },
           py::arg("samples"), py::arg("search"), py::arg("skipped"), py::arg("control") = std::array<double, 3>{},
           py::arg("filtered") = true)
      .def("control", [](OwnSteering& own, double estimated) { return own.steering.control(estimated); },
           py::arg("estimated"))
      .def("share", [](const OwnSteering& own) { return own.steering.share(); });

  py::class_<Session>(module, "Session", "Follows one encode; see engine/session.hpp for the order of calls.")
      .def(py::init([](const py::bytes& model, bool enabled, double kappa, const std::string& trace, double explore_skip,
                       double explore_keep, uint64_t seed, double target) {
             Settings settings;
             settings.enabled      = enabled;
             settings.kappa        = kappa;
             settings.trace_path   = trace;
             settings.explore_skip = explore_skip;
             settings.explore_keep = explore_keep;
             settings.seed         = seed;
             settings.target       = target;
             const auto bytes      = std::string_view(model);
             return std::make_unique<Session>(settings, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
           }),
           py::arg("model") = py::bytes(), py::arg("enabled") = false, py::arg("kappa") = 1.0, py::arg("trace") = "",
           py::arg("explore_skip") = 0.0, py::arg("explore_keep") = 0.0, py::arg("seed") = 1, py::arg("target") = 0.0)
      .def("begin_picture",
           [](Session& session, int poc, int qp, int temporal_id, bool intra, const LumaArray& luma) {
             if (luma.ndim() != 2) throw std::runtime_error("luma has not two dimensions");
             session.begin_picture(poc, qp, temporal_id, intra, plane_of(luma), int(luma.shape(1)), int(luma.shape(0)));
           },
           py::arg("poc"), py::arg("qp"), py::arg("temporal_id"), py::arg("intra"), py::arg("luma"))
      .def("enter",
           [](Session& session, int x, int y, int width, int height, bool intra_slice, int qp) {
             NodeGeometry node;
             node.x = x, node.y = y, node.width = width, node.height = height;
             node.intra_slice = intra_slice;
             node.qp          = int8_t(qp);
             node.askable     = true;
             session.enter(node);
           },
           py::arg("x"), py::arg("y"), py::arg("width"), py::arg("height"), py::arg("intra_slice") = false,
           py::arg("qp") = 32)
      .def("consider",
           [](Session& session, int candidate, double best_cost) {
             if (candidate < 0 || candidate >= kCandidates) throw std::runtime_error("no such candidate");
             BestSoFar best;
             best.present = best_cost > 0;
             best.cost    = best_cost;
             best.bits    = best_cost / 2;
             return session.consider(Candidate(candidate), best, {}, {});
           },
           py::arg("candidate"), py::arg("best_cost") = 0.0, "best_cost: 0 if nothing was tested yet.")
      .def("result", &Session::result, py::arg("cost"))
      .def("child_done", &Session::child_done, py::arg("partial_cost"), py::arg("width"), py::arg("height"),
           py::arg("may_stop") = true)
      .def("leave", &Session::leave)
      .def("end_ctu", &Session::end_ctu)
      .def("finish", &Session::finish)
      .def("asked",
           [](const Session& session) {
             const Counters counters = session.counters();
             return std::vector<uint64_t>(counters.asked, counters.asked + kCandidates);
           },
           "Questions by candidate.")
      .def("skipped", [](const Session& session) {
        const Counters counters = session.counters();
        return std::vector<uint64_t>(counters.skipped, counters.skipped + kCandidates);
      }, "Skips by candidate.")
      .def("controls", [](const Session& session) {
        Effort all;
        if (session.steering()) for (const Effort& effort : session.steering()->efforts()) all.add(effort);
        return py::make_tuple(all.controls, all.control_estimated, all.control_search);
      }, "Controls in pictures that ended: number, and of all that they stand for estimated time and search.");

  py::class_<PictureStats>(module, "PictureStats", "Sums over blocks of a luma plane.")
      .def(py::init([](const LumaArray& luma) {
             PictureStats stats;
             stats.build(plane_of(luma), int(luma.shape(1)), int(luma.shape(0)));
             return stats;
           }),
           py::arg("luma"))
      .def("sums",
           [](const PictureStats& stats, int x, int y, int w, int h) {
             const BlockSums sums = BlockGrid(stats, x, y, w, h).sums(0, 0, 4, 4);
             return py::make_tuple(sums.sum, sums.squares, sums.gradient_h, sums.gradient_v, sums.samples, sums.variance());
           },
           py::arg("x"), py::arg("y"), py::arg("width"), py::arg("height"),
           "(sum, sum of squares, horizontal gradient, vertical gradient, samples, variance).");
}

}  // namespace binding_detail
}  // namespace fastpart
