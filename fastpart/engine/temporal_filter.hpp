// The search for motion of the temporal filter that VTM runs over the source.
#pragma once

#include "node.hpp"

namespace fastpart {

// Squared error of a block of 8x8 or 16x16 against a reference, or anything above `enough` if it is above that. Of the
// filters for a fraction of a sample, which have a gain of 64 each, taps 1 to 6 count, 3 being that of the sample itself.
int temporal_filter_error(Plane block, Plane reference, int size, const int* horizontal, const int* vertical, int greatest,
                          int enough);

// The same at whole samples.
int temporal_filter_error(Plane block, Plane reference, int size, int enough);

}  // namespace fastpart
