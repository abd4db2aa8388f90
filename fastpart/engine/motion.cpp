#include "motion.hpp"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace fastpart {
namespace motion_detail {

constexpr int kSearched      = 8;       // block of the search, in samples of a level
constexpr int kReach         = Pyramid::kPad / 2 - kSearched;   // of such a block into the room around its level: the next finer
                                                                // level doubles its motion
constexpr int kCoarsestWidth = 256;     // at most, of the level that is searched in full
constexpr int kNear = 4, kFarther = 2, kFarthest = 20;   // range there: grows with the distance
constexpr int kFiner         = 2;       // range on the others
constexpr int kMoving        = 40;      // sum of absolute differences that motion has to save
constexpr int kTaps          = 8;
constexpr std::array<int, kTaps> kHalf = {-1, 4, -11, 40, 40, -11, 4, -1};   // half a sample: H.266, 8.5.6.3.2; of 64

int absolute_differences(const int16_t* a, int stride_a, const int16_t* b, int stride_b)
{
  int sum = 0;
  for (int y = 0; y < kSearched; y++, a += stride_a, b += stride_b)
    for (int x = 0; x < kSearched; x++) sum += std::abs(a[x] - b[x]);
  return sum;
}

// A grid of motion on one level.
struct Field {
  int                 columns = 0, rows = 0;
  std::vector<Motion> motion;
  Motion              near(int column, int row) const
  {
    return motion[size_t(std::clamp(row, 0, rows - 1)) * size_t(columns) + size_t(std::clamp(column, 0, columns - 1))];
  }
};

Field search_level(const Pyramid::Level& from, const Pyramid::Level& to, const Field& coarser, int coarsest_range)
{
  Field field{from.width / kSearched, from.height / kSearched, {}};
  for (int row = 0; row < field.rows; row++)
    for (int column = 0; column < field.columns; column++)
    {
      const int      x0 = column * kSearched, y0 = row * kSearched;
      const int16_t* block = from.at(x0, y0);
      Motion         best;
      int            least = absolute_differences(block, from.stride, to.at(x0, y0), to.stride);
      const auto     test  = [&](int x, int y) {
        x = std::clamp(x, -x0 - kReach, from.width - x0 - kSearched + kReach);
        y = std::clamp(y, -y0 - kReach, from.height - y0 - kSearched + kReach);
        const int cost = absolute_differences(block, from.stride, to.at(x0 + x, y0 + y), to.stride) + kMoving;
        if (cost < least) least = cost, best = {int16_t(x), int16_t(y)};
      };
      if (!coarser.motion.empty())
        for (const auto& [dx, dy] : {std::pair{0, 0}, {-1, 0}, {1, 0}, {0, -1}, {0, 1}})
        {
          const Motion m = coarser.near(column / 2 + dx, row / 2 + dy);
          test(2 * m.x, 2 * m.y);
        }
      const int    range  = coarser.motion.empty() ? coarsest_range : kFiner;
      const Motion centre = best;
      for (int y = -range; y <= range; y++)
        for (int x = -range; x <= range; x++) test(centre.x + x, centre.y + y);
      field.motion.push_back(best);
    }
  return field;
}

// The predictions of a block from places up to half a sample away from it.
class HalfSamples {
 public:
  HalfSamples(const int16_t* block, int stride)
  {
    constexpr int kBefore = kTaps / 2;
    int           across[kRows][kSide];   // halfway to the sample on the right
    for (int y = 0; y < kRows; y++)
    {
      const int16_t* row = block + (y - kBefore) * stride - 1;
      for (int x = 0; x < kSide; x++)
      {
        whole_[y][x] = row[x];
        int sum      = 0;
        for (int tap = 0; tap < kTaps; tap++) sum += kHalf[size_t(tap)] * row[x + tap - kBefore + 1];
        across[y][x] = (sum + 32) >> 6;
      }
    }
    for (int y = 0; y < kSide; y++)
      for (int x = 0; x < kSide; x++)
      {
        int below = 0, both = 0;
        for (int tap = 0; tap < kTaps; tap++)
        {
          below += kHalf[size_t(tap)] * whole_[y + tap][x];
          both += kHalf[size_t(tap)] * across[y + tap][x];
        }
        right_[y][x] = across[y + kBefore - 1][x];
        below_[y][x] = (below + 32) >> 6;
        both_[y][x]  = (both + 32) >> 6;
      }
  }
  // dx, dy: -1 to 1 half samples.
  MotionSamples prediction(int dx, int dy) const
  {
    MotionSamples samples;
    const int     left = 1 - (dx < 0), top = 1 - (dy < 0);
    for (int y = 0; y < kMotionBlock; y++)
      for (int x = 0; x < kMotionBlock; x++)
        samples[size_t(y * kMotionBlock + x)] = dx && dy ? both_[y + top][x + left] : dx ? right_[y + 1][x + left]
                                                : dy ? below_[y + top][x + 1] : whole_[y + kTaps / 2][x + 1];
    return samples;
  }

 private:
  static constexpr int kSide = kMotionBlock + 1, kRows = kSide + kTaps - 1;   // one sample above and to the left included
  int whole_[kRows][kSide], right_[kSide][kSide], below_[kSide][kSide], both_[kSide][kSide];
};

}  // namespace motion_detail

using namespace motion_detail;

Pyramid::Pyramid(Plane luma, int width, int height, int bit_depth)
{
  const int shift = kMotionBits - bit_depth;
  bool      last  = false;
  for (; !last; width /= 2, height /= 2)
  {
    last = !levels_.empty() && width <= kCoarsestWidth;
    Level level{width, height, width + 2 * kPad, {}};
    level.samples.resize(size_t(level.stride) * size_t(height + 2 * kPad));
    for (int y = 0; y < height; y++)
    {
      int16_t* row = level.at(0, y);
      if (levels_.empty())
        for (int x = 0; x < width; x++)
        {
          const int value = luma.samples[y * luma.stride + x];
          row[x]          = int16_t(shift >= 0 ? value << shift : value >> -shift);
        }
      else
        for (int x = 0; x < width; x++)
        {
          const int16_t* a = levels_.back().at(2 * x, 2 * y);
          const int16_t* b = a + levels_.back().stride;
          row[x]           = int16_t((a[0] + a[1] + b[0] + b[1] + 2) >> 2);
        }
      std::fill(row - kPad, row, row[0]);
      std::fill(row + width, row + width + kPad, row[width - 1]);
    }
    for (int y = 1; y <= kPad; y++)
    {
      std::copy_n(level.at(-kPad, 0), level.stride, level.at(-kPad, -y));
      std::copy_n(level.at(-kPad, height - 1), level.stride, level.at(-kPad, height - 1 + y));
    }
    levels_.push_back(std::move(level));
  }
}

std::vector<Motion> coarse_motion(const Pyramid& from, const Pyramid& to, int distance)
{
  Field field;
  for (size_t level = from.levels().size() - 1; level > 0; level--)
    field = search_level(from.levels()[level], to.levels()[level], field, std::min(kFarthest, kNear + kFarther * distance));
  return field.motion;
}

MotionSamples block_at(const Pyramid& picture, int x, int y)
{
  const Pyramid::Level& level = picture.levels().front();
  MotionSamples         samples;
  for (int row = 0; row < kMotionBlock; row++)
    std::copy_n(level.at(x, y + row), kMotionBlock, &samples[size_t(row * kMotionBlock)]);
  return samples;
}

int64_t squared_error(const MotionSamples& a, const MotionSamples& b)
{
  int sum = 0;   // 256 squares of 11 bits
  for (size_t i = 0; i < a.size(); i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

Match match(const MotionSamples& block, int x, int y, const Pyramid& to, Motion coarse)
{
  Match  best{{}, {}, INT64_MAX};
  Motion whole;
  for (int dy = -1; dy <= 1; dy++)
    for (int dx = -1; dx <= 1; dx++)
    {
      const Motion  m{int16_t(2 * coarse.x + dx), int16_t(2 * coarse.y + dy)};
      const int64_t error = squared_error(block, block_at(to, x + m.x, y + m.y));
      if (error < best.error) best.error = error, whole = m;
    }
  const Pyramid::Level& level = to.levels().front();
  const HalfSamples     half(level.at(x + whole.x, y + whole.y), level.stride);
  best.error = INT64_MAX;
  for (int dy = -1; dy <= 1; dy++)
    for (int dx = -1; dx <= 1; dx++)
    {
      const MotionSamples prediction = half.prediction(dx, dy);
      const int64_t       error      = squared_error(block, prediction);
      if (error < best.error) best = {{int16_t(2 * whole.x + dx), int16_t(2 * whole.y + dy)}, prediction, error};
    }
  return best;
}

}  // namespace fastpart
