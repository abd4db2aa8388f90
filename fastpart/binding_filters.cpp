// The part of fastpart._engine that the encoder's filters use.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "binding_planes.hpp"
#include "engine/alf.hpp"
#include "engine/alf_clipping.hpp"
#include "engine/temporal_filter.hpp"

namespace py = pybind11;

namespace fastpart {
namespace binding_detail {
namespace {

using Kinds   = py::array_t<uint8_t, py::array::c_style | py::array::forcecast>;
using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;
using Taps    = std::array<int, 8>;

py::tuple alf_sums(const Samples& reconstruction, const Samples& original, const Kinds& kinds, int number, int reach,
                   const std::array<int16_t, kAlfClips>& clips, int y, int ctu_height, int boundary)
{
  if (original.ndim() != 2 || original.shape(0) % kAlfBlock != 0 || original.shape(1) % kAlfBlock != 0)
    throw std::runtime_error("original of shape " + std::string(py::str(original.attr("shape"))) + ", wanted blocks of 4x4");
  if (reach != 2 && reach != 3) throw std::runtime_error("reach of " + std::to_string(reach) + ", wanted 2 or 3");
  const py::ssize_t rows = original.shape(0), columns = original.shape(1);
  if (kinds.ndim() != 3 || kinds.shape(0) != rows / kAlfBlock || kinds.shape(1) != columns / kAlfBlock || kinds.shape(2) != 2)
    throw std::runtime_error("kinds of shape " + std::string(py::str(kinds.attr("shape"))) +
                             ", wanted class and transposition of every block");
  std::vector<AlfKind> of_blocks;
  for (const uint8_t* kind = kinds.data(); kind < kinds.data() + kinds.size(); kind += 2)
  {
    if (kind[0] >= number || kind[1] > 3) throw std::runtime_error("class or transposition of a block too large");
    of_blocks.push_back({kind[0], kind[1]});
  }
  const py::ssize_t   width = kAlfClips * alf_coefficients(reach);
  py::array_t<double> with_target({py::ssize_t(number), width}), products({py::ssize_t(number), width * (width + 1) / 2}),
      target(std::vector<py::ssize_t>{number});
  for (py::array_t<double>* each : {&with_target, &products, &target}) (*each)[py::ellipsis()] = 0.0;
  std::vector<AlfSums> sums;
  for (py::ssize_t i = 0; i < number; i++)
    sums.push_back({with_target.mutable_data(i, 0), products.mutable_data(i, 0), target.mutable_data(i)});
  add_alf_sums({plane_within(reconstruction, rows, columns, reach), plane_within(original, rows, columns), int(columns),
                int(rows), reach, y, ctu_height, boundary, clips},
               of_blocks, sums);
  return py::make_tuple(with_target, products, target);
}

std::vector<double> errors_of_tries(const Doubles& with_target, const Doubles& products, double target,
                                    const std::vector<int>& clips, const std::vector<std::pair<int, int>>& tries)
{
  const int size    = int(clips.size());
  const int columns = kAlfClips * size;
  if (size < 1 || size > kAlfMostCoefficients)
    throw std::runtime_error(std::to_string(size) + " clipping values, wanted 1 to " + std::to_string(kAlfMostCoefficients));
  if (with_target.size() != columns || products.size() != columns * (columns + 1) / 2)
    throw std::runtime_error("sums of " + std::to_string(with_target.size()) + " and " + std::to_string(products.size()) +
                             " columns, wanted " + std::to_string(columns) + " and their lower triangle");
  std::vector<AlfTry> each;
  for (const auto& [coefficient, clip] : tries) each.push_back({coefficient, clip});
  for (const AlfTry& one : each)
    if (one.coefficient < 0 || one.coefficient >= size || one.clip < 0 || one.clip >= kAlfClips)
      throw std::runtime_error("a try outside the coefficients or clipping values");
  for (int clip : clips)
    if (clip < 0 || clip >= kAlfClips) throw std::runtime_error("clipping value " + std::to_string(clip) + ", wanted 0 to 3");
  return alf_errors({with_target.data(), products.data(), target, size}, clips.data(), each);
}

// Samples of a block, each way.
py::ssize_t size_of(const Samples& block)
{
  if (block.ndim() != 2 || block.shape(0) != block.shape(1) || (block.shape(0) != 8 && block.shape(0) != 16))
    throw std::runtime_error("block of shape " + std::string(py::str(block.attr("shape"))) + ", wanted (8, 8) or (16, 16)");
  return block.shape(0);
}

int filter_error(const Samples& block, const Samples& reference, const Taps& horizontal, const Taps& vertical, int greatest,
                 int enough)
{
  constexpr py::ssize_t kAround = 3;
  const py::ssize_t     size    = size_of(block);
  return temporal_filter_error(plane_within(block, size, size), plane_within(reference, size, size, kAround), int(size),
                               horizontal.data(), vertical.data(), greatest, enough);
}

int whole_error(const Samples& block, const Samples& reference, int enough)
{
  const py::ssize_t size = size_of(block);
  return temporal_filter_error(plane_within(block, size, size), plane_within(reference, size, size), int(size), enough);
}

}  // namespace

void bind_filters(py::module_& module)
{
  module.def("alf_sums", &alf_sums, py::arg("reconstruction"), py::arg("original"), py::arg("kinds"), py::arg("number"),
             py::arg("reach"), py::arg("clips"), py::arg("y"), py::arg("ctu_height"), py::arg("boundary"),
             "AlfSums by class, (with_target, products, target) of shapes (number, columns), (number, lower triangle) and "
             "(number,). original: int16 of shape (h, w); reconstruction: with `reach` samples more on each side; kinds: "
             "class and transposition, uint8 of shape (h / 4, w / 4, 2).");
  module.def("alf_errors", &errors_of_tries, py::arg("with_target"), py::arg("products"), py::arg("target"), py::arg("clips"),
             py::arg("tries"),
             "Squared error of the best filter for each try (coefficient, clipping value) on top of clips, by AlfSums of a "
             "class; none if a system is singular.");
  module.def("temporal_filter_error", &filter_error, py::arg("block"), py::arg("reference"), py::arg("horizontal"),
             py::arg("vertical"), py::arg("greatest"), py::arg("enough"),
             "Squared error of a block, int16 of shape (8, 8) or (16, 16), against a reference with three samples more on "
             "each side, between samples.");
  module.def("temporal_filter_error", &whole_error, py::arg("block"), py::arg("reference"), py::arg("enough"),
             "The same at whole samples, of a reference of the size of the block.");
}

}  // namespace binding_detail
}  // namespace fastpart
