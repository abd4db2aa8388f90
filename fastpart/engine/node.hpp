// Plain description of a coding-tree node and of what the search knows about it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastpart {

// What an encoder may be about to test. The first five are splits, in the order of H.266 7.4.12.4.
enum class Candidate : uint8_t {
  SplitQt, SplitBtH, SplitBtV, SplitTtH, SplitTtV,
  Continue,                                  // go on with a split of which some children are done
  Intra, AmvrFull, AmvrFour, AmvrHalf, InterMe,
  Other,                                     // merge, cached result, IBC, palette: never skipped
  Count
};
constexpr int kCandidates = int(Candidate::Count);
constexpr int kSplits     = 5;

inline bool is_split(Candidate c) { return c <= Candidate::SplitTtV; }
inline bool is_vertical(Candidate c) { return c == Candidate::SplitBtV || c == Candidate::SplitTtV; }

// log2 of a size or an area, rounded down; x > 0.
inline int log2_of(int x)
{
  int n = 0;
  while ((2 << n) <= x) n++;
  return n;
}

// Samples of one component; stride in samples.
struct Plane {
  const int16_t* samples = nullptr;
  ptrdiff_t      stride  = 0;
};

// A coded neighbour of the node; present == false outside the slice or picture.
struct Neighbour {
  bool    present = false;
  bool    skip    = false;
  bool    intra   = false;
  int8_t  log2_width = 0, log2_height = 0;   // luma samples
  int8_t  qt_depth = 0, mt_depth = 0;
};

// What is fixed when the search enters a node. Positions and sizes in luma samples.
struct NodeGeometry {
  int     poc = 0;
  int     x = 0, y = 0, width = 0, height = 0;
  int8_t  qp = 0;                            // slice QP
  int8_t  temporal_id = 0;
  bool    intra_slice = false;
  bool    chroma = false;                    // chroma tree of a dual-tree picture
  int8_t  qt_depth = 0, bt_depth = 0, mt_depth = 0, max_mt_depth = 0;
  int8_t  child_index = 0;                   // place among its siblings
  bool    forced = false;                    // the picture's border decides the split: no mode is tested
  bool    askable = false;                   // false: forced or local dual tree, not to be asked about
  Neighbour left, above;
  bool    was_inter = false, was_intra = false, was_skip = false;  // found best here under another split history
};

// The best candidate of the node so far. Costs and bits in units of 1/32768 bit (VTM's scale).
struct BestSoFar {
  bool    present = false;
  double  cost = 0, bits = 0;
  int     coding_units = 0;
  bool    skip = false, merge = false, intra = false, affine = false, geo = false, ciip = false,
          mmvd = false, bi = false, root_cbf = false;
  uint8_t amvr = 0;
};

}  // namespace fastpart
