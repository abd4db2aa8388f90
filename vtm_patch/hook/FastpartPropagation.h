// QP offsets of coding tree units from what later pictures inherit from them, before the first picture is coded.
#pragma once

#include <map>

#include "FastpartSource.h"

namespace fastpart_hook
{
// How the pictures will be coded: QP of the sequence, pictures of a group, of which the last is coded first, and from one
// intra picture to the next, luma samples of a coding tree unit.
struct Coding
{
  int  qp, gop;
  bool lastFirst;
  int  intraPeriod, ctu;
};

// Adds an entry for every picture, by POC, an offset for every coding tree unit in raster order: -strength for every doubling
// of its importance. Prints their range. Ends the program with a message for a group that is no hierarchy.
void adaptQps(const Source &source, const Coding &coding, double strength, std::map<int, int *> &offsets);
}   // namespace fastpart_hook
