// Dependent quantisation (H.266, 7.3.11.11 and 9.3.4.2): the trellis over the coefficients of a transform block that VTM
// searches, with the same result in less time.
#pragma once

#include <cstdint>

namespace fastpart {

struct DepQuantBlock {
  int  log2_width, log2_height;      // 0 to 6; of 64 the 32 lowest frequencies count
  bool luma;
  int  regular_bins;                 // bins of the block that are coded with contexts, at most
};

// Fixed point, as VTM derives it from QP, block and lambda: an index i of the quantiser costs, over index 0,
// (i * (i * step - scaled * origin) + rounding) >> shift, scaled being the magnitude of the coefficient times `scale`.
struct DepQuantScale {
  int     index_shift;               // the first index tried: (scaled + index_rounding) >> index_shift, from 1 to greatest
  int64_t index_rounding, scale;
  int32_t greatest;
  int     shift;
  int64_t rounding, step, origin;
};

// Bits of bins by context, 2^15 for one.
struct DepQuantRates {
  const int32_t* last_x;             // of the last coefficient's column
  const int32_t* last_y;             // of its row, and what a coded block takes more than none
  const uint32_t (*sub_block)[2];    // sb_coded_flag: none, or one, of the sub-blocks to the right and below is coded
  const uint32_t (*significant[3])[2];   // sig_coeff_flag: states 0 and 1, 2, 3
  const int32_t (*level)[6];         // of levels 1 to 5 (with 4 and 5 what follows is an escape); sign included
};

// Last position of the scan, at most `last`, whose coefficient's magnitude exceeds the threshold; -1: none does.
// coefficients: in raster order.
int last_above(const DepQuantBlock& block, int last, int32_t threshold, const int32_t* coefficients);

// Levels of the coefficients up to position `last` of the scan into an array of zeros, and the sum of their magnitudes.
int64_t dep_quant(const DepQuantBlock& block, int last, const DepQuantScale& scale, const DepQuantRates& rates,
                  const int32_t* coefficients, int32_t* levels);

}  // namespace fastpart
