#include "alf_clipping.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "wide.hpp"

namespace fastpart {
namespace alf_clipping_detail {

// One lane for each of four systems.
typedef double Four __attribute__((vector_size(32)));

constexpr int    kLanes    = 4;
constexpr double kSingular = 0.0000001;   // a square on the diagonal at most this

struct Systems {
  Four matrix[kAlfMostCoefficients][kAlfMostCoefficients];   // upper triangle
  Four right[kAlfMostCoefficients];
};

double product(const AlfStatistics& s, int clip, int coefficient, int other_clip, int other)
{
  const std::ptrdiff_t one = std::ptrdiff_t(clip) * s.coefficients + coefficient;
  const std::ptrdiff_t two = std::ptrdiff_t(other_clip) * s.coefficients + other;
  const std::ptrdiff_t row = std::max(one, two);
  return s.products[row * (row + 1) / 2 + std::min(one, two)];
}

FASTPART_INLINE void fill(Four& four, double value) { four = Four{value, value, value, value}; }

// Error of the best filter of each system less that of none; false if one is singular.
FASTPART_WIDE
bool solve(const Systems& systems, int size, double* gains)
{
  Four upper[kAlfMostCoefficients][kAlfMostCoefficients], inverse[kAlfMostCoefficients];
  for (int i = 0; i < size; i++)
    for (int j = i; j < size; j++)
    {
      Four sum = systems.matrix[i][j];
      for (int k = i - 1; k >= 0; k--) sum -= upper[k][j] * upper[k][i];
      if (i != j)
      {
        upper[i][j] = sum * inverse[i];
        continue;
      }
      for (int lane = 0; lane < kLanes; lane++)
      {
        if (sum[lane] <= kSingular) return false;
        upper[i][i][lane] = std::sqrt(sum[lane]);
      }
      inverse[i] = 1.0 / upper[i][i];
    }

  Four half[kAlfMostCoefficients], solution[kAlfMostCoefficients];
  for (int i = 0; i < size; i++)
  {
    Four sum{};
    for (int j = 0; j < i; j++) sum += half[j] * upper[j][i];
    half[i] = (systems.right[i] - sum) / upper[i][i];
  }
  for (int i = size - 1; i >= 0; i--)
  {
    Four sum{};
    for (int j = i + 1; j < size; j++) sum += upper[i][j] * solution[j];
    solution[i] = (half[i] - sum) / upper[i][i];
  }
  Four gain{};
  for (int i = 0; i < size; i++) gain += solution[i] * systems.right[i];
  for (int lane = 0; lane < kLanes; lane++) gains[lane] = gain[lane];
  return true;
}

}  // namespace alf_clipping_detail

std::vector<double> alf_errors(const AlfStatistics& s, const int* clips, const std::vector<AlfTry>& tries)
{
  using namespace alf_clipping_detail;
  const int size = s.coefficients;
  Systems   unchanged{}, systems;
  if (!tries.empty())
    for (int i = 0; i < size; i++)
    {
      fill(unchanged.right[i], s.with_target[clips[i] * size + i]);
      for (int j = i; j < size; j++) fill(unchanged.matrix[i][j], product(s, clips[i], i, clips[j], j));
    }
  std::vector<double> errors;
  for (std::size_t first = 0; first < tries.size(); first += kLanes)
  {
    systems = unchanged;
    for (int lane = 0; lane < kLanes; lane++)
    {
      const AlfTry& each           = tries[std::min(first + lane, tries.size() - 1)];
      const int     changed        = each.coefficient;
      systems.right[changed][lane] = s.with_target[each.clip * size + changed];
      for (int i = 0; i < size; i++)
        systems.matrix[std::min(i, changed)][std::max(i, changed)][lane] =
            product(s, each.clip, changed, i == changed ? each.clip : clips[i], i);
    }
    double gains[kLanes];
    if (!solve(systems, size, gains)) return {};
    for (std::size_t lane = 0; lane < kLanes && first + lane < tries.size(); lane++) errors.push_back(s.target - gains[lane]);
  }
  return errors;
}

}  // namespace fastpart
