// Dependent quantisation with the same levels in less time.
#pragma once

#include "fastpart/engine/dep_quant.hpp"

namespace fastpart_hook
{
struct DepQuant
{
  decltype(&fastpart::last_above) lastAbove;
  decltype(&fastpart::dep_quant)  quantise;
};

// The engine's, or null: VTM's own. A pointer, since the decoder has the quantiser, too, and no engine.
inline const DepQuant *depQuant = nullptr;
}   // namespace fastpart_hook
