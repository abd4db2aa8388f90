// The temporal filter's search for motion with the same results in less time.
#pragma once

#include "FastpartPlane.h"
#include "fastpart/engine/temporal_filter.hpp"

namespace fastpart_hook
{
// Error of the block at (x, y), of 8x8 or 16x16, at a motion of 1/16 sample, or anything above `enough` if it is above that.
// filters: of VTM, for each sixteenth.
inline int temporalFilterError(const CPelBuf &original, const CPelBuf &reference, int x, int y, int dx, int dy, int size,
                               int enough, const int (*filters)[8], int bitDepth)
{
  const CPelBuf         block   = original.subBuf(x, y, size, size);
  const CPelBuf         moved(reference.bufAt(x + (dx >> 4), y + (dy >> 4)), reference.stride, size, size);
  const int             fractionX = dx & 15;
  const int             fractionY = dy & 15;
  return (fractionX | fractionY) == 0
           ? fastpart::temporal_filter_error(plane(block), plane(moved), size, enough)
           : fastpart::temporal_filter_error(plane(block), plane(moved), size, filters[fractionX], filters[fractionY],
                                             (1 << bitDepth) - 1, enough);
}
}   // namespace fastpart_hook
