// The part of fastpart._engine that the encoder's quantisation uses.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>

#include "engine/coefficient_scan.hpp"
#include "engine/dep_quant.hpp"

namespace py = pybind11;

namespace fastpart {
namespace binding_detail {
namespace {

template<class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

template<class T>
void check(const char* name, const Array<T>& array, const std::array<py::ssize_t, 2>& shape)
{
  if (array.ndim() != 2 || array.shape(0) != shape[0] || array.shape(1) != shape[1])
    throw std::runtime_error(std::string(name) + " of shape " + std::string(py::str(array.attr("shape"))) + ", wanted (" +
                             std::to_string(shape[0]) + ", " + std::to_string(shape[1]) + ")");
}

int log2_of(py::ssize_t size)
{
  int log2 = 0;
  while (log2 < 6 && py::ssize_t(1) << log2 < size) log2++;
  if (py::ssize_t(1) << log2 != size) throw std::runtime_error("a side of " + std::to_string(size) + ", wanted 1, 2, 4 to 64");
  return log2;
}

DepQuantBlock block_of(const Array<int32_t>& coefficients, bool luma, int regular_bins)
{
  if (coefficients.ndim() != 2 || coefficients.size() < 4)
    throw std::runtime_error("coefficients of shape " + std::string(py::str(coefficients.attr("shape"))) +
                             ", wanted a block of 4 or more");
  return {log2_of(coefficients.shape(1)), log2_of(coefficients.shape(0)), luma, regular_bins};
}

int last_of(const Array<int32_t>& coefficients, int last, int32_t threshold)
{
  return last_above(block_of(coefficients, true, 0), last, threshold, coefficients.data());
}

py::array_t<int32_t> quantise(const Array<int32_t>& coefficients, bool luma, int regular_bins, int last,
                              const std::array<int64_t, 8>& scale, const Array<int32_t>& last_bits,
                              const Array<uint32_t>& sub_block, const Array<uint32_t>& significant, const Array<int32_t>& level)
{
  const DepQuantBlock block = block_of(coefficients, luma, regular_bins);
  const int           size  = coefficient_scan(block.log2_width, block.log2_height, luma).size;
  if (last < 0 || last >= size)
    throw std::runtime_error("last position " + std::to_string(last) + " of " + std::to_string(size));
  const int contexts = luma ? 12 : 8;
  check("last_bits", last_bits, {2, 32});
  check("sub_block", sub_block, {2, 2});
  check("significant", significant, {3 * contexts, 2});
  check("level", level, {luma ? 21 : 11, 6});
  const auto          pairs = [](const uint32_t* data) { return reinterpret_cast<const uint32_t(*)[2]>(data); };
  const DepQuantRates rates = {last_bits.data(0, 0), last_bits.data(1, 0), pairs(sub_block.data()),
                               {pairs(significant.data(0, 0)), pairs(significant.data(contexts, 0)),
                                pairs(significant.data(2 * contexts, 0))},
                               reinterpret_cast<const int32_t(*)[6]>(level.data())};
  const DepQuantScale fixed = {int(scale[0]), scale[1], scale[2], int32_t(scale[3]),
                               int(scale[4]), scale[5], scale[6], scale[7]};
  py::array_t<int32_t> levels({coefficients.shape(0), coefficients.shape(1)});
  levels[py::ellipsis()] = 0;
  dep_quant(block, last, fixed, rates, coefficients.data(), levels.mutable_data());
  return levels;
}

}  // namespace

void bind_quantisation(py::module_& module)
{
  module.def("last_above", &last_of, py::arg("coefficients"), py::arg("last"), py::arg("threshold"),
             "Last position of the scan, at most `last`, of a coefficient above the threshold; -1: none.");
  module.def("dep_quant", &quantise, py::arg("coefficients"), py::arg("luma"), py::arg("regular_bins"), py::arg("last"),
             py::arg("scale"), py::arg("last_bits"), py::arg("sub_block"), py::arg("significant"), py::arg("level"),
             "Levels of a block's coefficients, int32 of shape (height, width). scale: the fields of DepQuantScale; bits, 2^15 "
             "for one: last_bits of columns and rows, shape (2, 32); sub_block (2, 2); significant (3 sets of 12, or 8 for "
             "chroma, 2); level (21 or 11, 6).");
}

}  // namespace binding_detail
}  // namespace fastpart
