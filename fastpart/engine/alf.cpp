#include "alf.hpp"

#include <algorithm>
#include <cstring>

#include "wide.hpp"

namespace fastpart {
namespace alf_detail {

constexpr int kSamples = kAlfBlock * kAlfBlock;
constexpr int kBatch   = 256;           // samples whose products fit 32 bits together
constexpr int kTall = 2, kBroad = 4;    // products at a time
constexpr int kColumns = (kAlfClips * alf_coefficients(3) + 1 + kBroad - 1) / kBroad * kBroad;
constexpr int kFar     = 4;             // beyond the reach

// Samples of one class: a row to each column of AlfSums, then the target.
struct Batch {
  alignas(32) int16_t columns[kColumns][kBatch] = {};
  int samples = 0;
};

struct Offset { int x, y; };

// One of each pair of samples about the centre, in the order of the coefficients.
std::vector<Offset> pattern(int reach, int transposition)
{
  std::vector<Offset> offsets;
  const auto add = [&](int a, int b) {
    if (a < 0 && (transposition & 2)) b = -b;
    offsets.push_back((transposition & 1) ? Offset{a, b} : Offset{b, a});
  };
  for (int a = -reach; a < 0; a++)
    for (int b = -reach - a; b <= reach + a; b++) add(a, b);
  for (int b = -reach; b < 0; b++) add(0, b);
  return offsets;
}

// How far above and below it the filter of a row sees at a virtual boundary (H.266, 8.8.5.2). Of transposed pairs whose first
// sample is below the row VTM's encoder does not keep to it; nor does this.
int sight(const AlfArea& area, int row)
{
  const int below = (area.y + row) % area.ctu_height - area.boundary;
  if (below >= -3 && below < 0) return -below - 1;
  return below >= 0 && below < 3 ? below : kFar;
}

FASTPART_INLINE int16_t clamped(int16_t value, int16_t low, int16_t high)   // std::clamp is kept out of the vector unit
{
  const int16_t above = value < low ? low : value;
  return above > high ? high : above;
}

FASTPART_WIDE void add_block(const AlfArea& area, int x, int y, const std::vector<Offset>& offsets, Batch& batch)
{
  const auto      stride = area.reconstruction.stride;
  const int16_t*  first  = area.reconstruction.samples + y * stride + x;
  int             seen[kAlfBlock];
  alignas(32) int16_t centre[kSamples], original[kSamples], before[kSamples], behind[kSamples];
  for (int row = 0; row < kAlfBlock; row++)
  {
    seen[row] = sight(area, y + row);
    std::memcpy(centre + row * kAlfBlock, first + row * stride, kAlfBlock * sizeof(int16_t));
    const int16_t* wanted = area.original.samples + (y + row) * area.original.stride + x;
    std::memcpy(original + row * kAlfBlock, wanted, kAlfBlock * sizeof(int16_t));
  }
  const size_t coefficients = offsets.size() + 1;
  int16_t(*columns)[kBatch] = batch.columns;
  for (size_t k = 0; k < offsets.size(); k++)
  {
    for (int row = 0; row < kAlfBlock; row++)
    {
      const auto     step = std::max(offsets[k].y, -seen[row]) * stride + offsets[k].x;
      const int16_t* here = first + row * stride;
      std::memcpy(before + row * kAlfBlock, here + step, kAlfBlock * sizeof(int16_t));
      std::memcpy(behind + row * kAlfBlock, here - step, kAlfBlock * sizeof(int16_t));
    }
    for (int i = 0; i < kSamples; i++) before[i] = int16_t(before[i] - centre[i]);
    for (int i = 0; i < kSamples; i++) behind[i] = int16_t(behind[i] - centre[i]);
    for (size_t clip = 0; clip < kAlfClips; clip++)
    {
      const int16_t high = area.clips[clip], low = int16_t(-high);
      int16_t*      to   = columns[clip * coefficients + k] + batch.samples;
      for (int i = 0; i < kSamples; i++) to[i] = int16_t(clamped(before[i], low, high) + clamped(behind[i], low, high));
    }
  }
  for (size_t clip = 0; clip < kAlfClips; clip++)
    std::memcpy(columns[clip * coefficients + coefficients - 1] + batch.samples, centre, sizeof centre);
  int16_t* target = columns[kAlfClips * coefficients] + batch.samples;
  for (int i = 0; i < kSamples; i++) target[i] = int16_t(original[i] - centre[i]);
  batch.samples += kSamples;
}

// Products of kTall rows with kBroad others.
FASTPART_WIDE void multiply(const int16_t* a, const int16_t* b, int samples, int32_t* products)
{
  int32_t s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
  for (int i = 0; i < samples; i++)
  {
    const int32_t a0 = a[i], a1 = a[i + kBatch], b0 = b[i], b1 = b[i + kBatch], b2 = b[i + 2 * kBatch], b3 = b[i + 3 * kBatch];
    s00 += a0 * b0, s01 += a0 * b1, s02 += a0 * b2, s03 += a0 * b3;
    s10 += a1 * b0, s11 += a1 * b1, s12 += a1 * b2, s13 += a1 * b3;
  }
  const int32_t all[] = {s00, s01, s02, s03, s10, s11, s12, s13};
  std::copy(std::begin(all), std::end(all), products);
}

void flush(Batch& batch, int columns, const AlfSums& sums)
{
  for (int v = 0; v <= columns; v += kTall)
    for (int w = 0; w <= std::min(v + kTall - 1, columns); w += kBroad)
    {
      int32_t products[kTall][kBroad];
      multiply(batch.columns[v], batch.columns[w], batch.samples, products[0]);
      for (int i = v; i < std::min(v + kTall, columns + 1); i++)
      {
        double* to = i < columns ? sums.products + ptrdiff_t(i) * (i + 1) / 2 : sums.with_target;
        for (int j = w; j < std::min(w + kBroad, i + 1); j++) (j < columns ? to[j] : *sums.target) += products[i - v][j - w];
      }
    }
  batch.samples = 0;
}

}  // namespace alf_detail

void add_alf_sums(const AlfArea& area, const std::vector<AlfKind>& kinds, const std::vector<AlfSums>& classes)
{
  using namespace alf_detail;
  std::vector<Offset> offsets[4];
  for (int transposition = 0; transposition < 4; transposition++) offsets[transposition] = pattern(area.reach, transposition);
  const int columns = kAlfClips * alf_coefficients(area.reach);
  const int across  = area.width / kAlfBlock;
  Batch     batch;
  for (size_t c = 0; c < classes.size(); c++)
  {
    for (int block = 0; block < across * (area.height / kAlfBlock); block++)
    {
      const AlfKind kind = kinds.empty() ? AlfKind{} : kinds[size_t(block)];
      if (kind.of_class != c) continue;
      add_block(area, block % across * kAlfBlock, block / across * kAlfBlock, offsets[kind.transposition], batch);
      if (batch.samples == kBatch) flush(batch, columns, classes[c]);
    }
    if (batch.samples > 0) flush(batch, columns, classes[c]);
  }
}

}  // namespace fastpart
