#include "temporal_filter.hpp"

#include <algorithm>
#include <cstdint>

#include "wide.hpp"

namespace fastpart {
namespace temporal_filter_detail {

constexpr int kTaps = 6, kBefore = 2, kShift = 12, kRows = 4;

// Sum of squares of Size rows of Size differences, a few rows at a time while it is not above `enough`.
template<int Size, typename Difference>
FASTPART_INLINE int squares(const Difference& difference, int enough)
{
  int error = 0;
  for (int first = 0; first < Size && error <= enough; first += kRows)
  {
    int sums[Size] = {};
    for (int y = first; y < first + kRows; y++)
      for (int x = 0; x < Size; x++) sums[x] += difference(x, y) * difference(x, y);
    for (int x = 0; x < Size; x++) error += sums[x];
  }
  return error;
}

template<int Size>
FASTPART_INLINE int error_at(Plane block, Plane reference, int enough)
{
  return squares<Size>([&](int x, int y) {
    return block.samples[y * block.stride + x] - reference.samples[y * reference.stride + x];
  }, enough);
}

template<int Size>
FASTPART_INLINE int error_between(Plane block, Plane reference, const int* horizontal, const int* vertical, int greatest,
                                  int enough)
{
  int rows[Size + kTaps - 1][Size];
  for (int y = 0; y < Size + kTaps - 1; y++)
  {
    const int16_t* from = reference.samples + (y - kBefore) * reference.stride - kBefore;
    for (int x = 0; x < Size; x++)
    {
      int sum = 0;
      for (int tap = 0; tap < kTaps; tap++) sum += horizontal[1 + tap] * from[x + tap];
      rows[y][x] = sum;
    }
  }
  return squares<Size>([&](int x, int y) {
    int sum = 1 << (kShift - 1);
    for (int tap = 0; tap < kTaps; tap++) sum += vertical[1 + tap] * rows[y + tap][x];
    return std::clamp(sum >> kShift, 0, greatest) - block.samples[y * block.stride + x];
  }, enough);
}

}  // namespace temporal_filter_detail

FASTPART_WIDE int temporal_filter_error(Plane block, Plane reference, int size, const int* horizontal, const int* vertical,
                                        int greatest, int enough)
{
  using temporal_filter_detail::error_between;
  return size == 8 ? error_between<8>(block, reference, horizontal, vertical, greatest, enough)
                   : error_between<16>(block, reference, horizontal, vertical, greatest, enough);
}

FASTPART_WIDE int temporal_filter_error(Plane block, Plane reference, int size, int enough)
{
  using temporal_filter_detail::error_at;
  return size == 8 ? error_at<8>(block, reference, enough) : error_at<16>(block, reference, enough);
}

}  // namespace fastpart
