// Planes of samples from NumPy.
#pragma once

#include <pybind11/numpy.h>

#include <stdexcept>
#include <string>

#include "engine/node.hpp"

namespace fastpart {
namespace binding_detail {

namespace py = pybind11;

using Samples = py::array_t<int16_t, py::array::c_style | py::array::forcecast>;

// The plane of so many rows and columns within samples that have `around` more on each side; throws unless they do.
inline Plane plane_within(const Samples& samples, py::ssize_t rows, py::ssize_t columns, py::ssize_t around = 0)
{
  rows += 2 * around;
  columns += 2 * around;
  if (samples.ndim() != 2 || samples.shape(0) != rows || samples.shape(1) != columns)
    throw std::runtime_error("plane of shape " + std::string(py::str(samples.attr("shape"))) + ", wanted (" +
                             std::to_string(rows) + ", " + std::to_string(columns) + ")");
  return {samples.data(around, around), ptrdiff_t(columns)};
}

}  // namespace binding_detail
}  // namespace fastpart
