// Order of the coefficients of a transform block, and whose context modelling each takes part in.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace fastpart {

// One lane for each position of a sub-block.
typedef uint8_t Bytes __attribute__((vector_size(16)));

constexpr int kSubBlock        = 16;   // coefficients, at most
constexpr int kSubBlocks       = 64;   // of a block, at most
constexpr int kTemplate        = 5;    // positions that the contexts of one depend on: H.266, 9.3.4.2.7
constexpr int kSubBlocksBeyond = 3;    // those that such positions of a sub-block lie in: to the right, below, right below

struct CoefficientPosition {
  uint16_t raster;
  uint8_t  x, y;
  uint8_t  inside;                         // its sub-block, in scan order
  bool     first, last;                    // of a sub-block with a flag of its own, in coding order
  uint8_t  next_significant, next_level;   // where the contexts of the position coded next begin
};

// Which position of another sub-block is the k-th of the template of each position of this one.
struct TemplateBeyond {
  Bytes from[kTemplate], present[kTemplate];
  bool  any[kTemplate];
};

// Coding goes backward, from the highest frequency to the lowest: H.266, 6.5.2 and 7.3.11.11.
struct CoefficientScan {
  int                              width, size, sub_block;   // of the block; positions; those of a sub-block
  std::vector<CoefficientPosition> positions;
  std::vector<std::array<int8_t, kSubBlocksBeyond>> beyond_of;   // sub-blocks by place in the scan; -1: outside
  Bytes          itself[kSubBlock];        // each position
  Bytes          reached[kSubBlock];       // those whose template has it
  TemplateBeyond beyond[kSubBlocksBeyond];

  CoefficientScan(int log2_width, int log2_height, bool luma);
};

// log2_width, log2_height: 0 to 6; of 64 the 32 lowest frequencies count.
const CoefficientScan& coefficient_scan(int log2_width, int log2_height, bool luma);

}  // namespace fastpart
