#include "chroma.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>

namespace fastpart {
namespace chroma_detail {

double mean_laplacian(Plane plane, int width, int height)
{
  if (width < 3 || height < 3) return 0;
  int64_t sum = 0;
  for (int y = 1; y < height - 1; y++)
  {
    const int16_t* line = plane.samples + y * plane.stride;
    for (int x = 1; x < width - 1; x++)
      sum += std::abs(4 * line[x] - line[x - 1] - line[x + 1] - line[x - plane.stride] - line[x + plane.stride]);
  }
  return double(sum) / (double(width - 2) * (height - 2));
}

double mean_difference(Plane a, Plane b, int width, int height)
{
  int64_t sum = 0;
  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++) sum += std::abs(a.samples[y * a.stride + x] - b.samples[y * b.stride + x]);
  return double(sum) / (double(width) * height);
}

}  // namespace chroma_detail

void ChromaDetail::add(const PicturePlanes& picture, const PicturePlanes* next, int width, int height)
{
  using namespace chroma_detail;
  const int w = width / 2, h = height / 2;
  spatial_.luma += mean_laplacian(picture.luma, width, height);
  spatial_.chroma += mean_laplacian(picture.cb, w, h) + mean_laplacian(picture.cr, w, h);
  if (!next) return;
  temporal_.luma += mean_difference(picture.luma, next->luma, width, height);
  temporal_.chroma += mean_difference(picture.cb, next->cb, w, h) + mean_difference(picture.cr, next->cr, w, h);
}

double ChromaDetail::ratio() const
{
  if (spatial_.luma <= 0) return 0;
  const double spatial = spatial_.chroma / spatial_.luma;
  return temporal_.luma > 0 ? std::sqrt(spatial * temporal_.chroma / temporal_.luma) : spatial;
}

int chroma_qp_offset(double detail_ratio, int qp)
{
  constexpr double kAtOne = -1.5, kPerDoubling = 4, kPerQp = -0.15, kQp = 27, kLowest = -18;
  const double     offset = kAtOne + kPerDoubling * std::log2(std::max(detail_ratio, 1e-3)) + kPerQp * (qp - kQp);
  return int(std::lround(std::clamp(offset, kLowest, 0.0)));
}

int qp_increment(int chroma_qp_offset)
{
  constexpr int kGivenBack = -3;
  return chroma_qp_offset <= kGivenBack;
}

}  // namespace fastpart
