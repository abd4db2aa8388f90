// The sums of the adaptive loop filter's Wiener filters over all samples of a picture: what VTM adds up in floating point, in
// integers, which are exact in both.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "node.hpp"

namespace fastpart {

constexpr int kAlfClips    = 4;      // clipping values of a coefficient (H.266, 7.4.3.18)
constexpr int kAlfBlock    = 4;      // samples, each way, of one class and one transposition
constexpr int kAlfBitDepth = 10;     // at most: sums of products stay below 2^31

// Part of a picture, with `reach` samples of reconstruction around it.
struct AlfArea {
  Plane reconstruction, original;    // from the area's first sample on
  int   width, height;               // samples, multiples of kAlfBlock
  int   reach;                       // of the filter: 3 (luma), 2 (chroma)
  int   y;                           // of the first row
  int   ctu_height, boundary;        // rows of a CTU; that of the virtual boundary, from its top
  std::array<int16_t, kAlfClips> clips;   // greatest difference to the filtered sample
};

// Class and transposition of a block (H.266, 8.8.5.3).
struct AlfKind { uint8_t of_class = 0, transposition = 0; };

// Sums of a class over its samples. Column clip * (coefficients) + coefficient is the sum of a pair of clipped differences, or
// the sample itself for the last coefficient; the target is original less reconstruction.
struct AlfSums {
  double* with_target;               // by column
  double* products;                  // of columns, lower triangle in rows
  double* target;                    // its square
};

// Adds an area. kinds: of its blocks in raster order; none: all of class 0.
void add_alf_sums(const AlfArea& area, const std::vector<AlfKind>& kinds, const std::vector<AlfSums>& classes);

// Number of coefficients, the last being that of the sample itself.
constexpr int alf_coefficients(int reach) { return reach * (reach + 1) + 1; }

}  // namespace fastpart
