// VTM's sample buffers as the engine's planes.
#pragma once

#include <type_traits>

#include "CommonLib/Buffer.h"

#include "fastpart/engine/node.hpp"

namespace fastpart_hook
{
inline fastpart::Plane plane(const CPelBuf &buffer)
{
  static_assert(std::is_same<Pel, int16_t>::value, "fastpart needs 16-bit samples: build without RExt__HIGH_BIT_DEPTH_SUPPORT");
  return { buffer.buf, buffer.stride };
}
}   // namespace fastpart_hook
