// QP offsets within each picture from what later pictures inherit, searched for before the first one is coded.
#pragma once

#include "FastpartSource.h"

struct Area;

namespace fastpart_hook
{
// How the pictures will be coded: QP of the sequence, pictures of a group, of which the last is coded first, from one intra
// picture to the next, and luma samples of a quantisation group.
struct Coding
{
  int  qp, gop;
  bool lastFirst;
  int  intraPeriod, quantisationGroup;
};

// Finds the offsets of all pictures, -strength for every doubling of importance, and prints the range of those of quantisation
// groups. Ends the program with a message for a group that is no hierarchy.
void searchQpOffsets(const Source &source, const Coding &coding, double strength);

// False: none were searched for.
extern bool qpsVary;

// Of a block of the picture, 0 for a picture that was not searched.
int qpOffset(int poc, const Area &luma);
}   // namespace fastpart_hook
