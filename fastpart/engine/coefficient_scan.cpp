#include "coefficient_scan.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

namespace fastpart {
namespace coefficient_scan_detail {

constexpr int kOffsets[kTemplate][2] = {{1, 0}, {2, 0}, {1, 1}, {0, 1}, {0, 2}};   // x, y

std::vector<std::pair<int, int>> diagonal(int width, int height)
{
  std::vector<std::pair<int, int>> scan;
  for (int sum = 0; sum < width + height - 1; sum++)
    for (int y = std::min(sum, height - 1); y >= 0 && sum - y < width; y--) scan.push_back({sum - y, y});
  return scan;
}

}  // namespace coefficient_scan_detail

CoefficientScan::CoefficientScan(int log2_width, int log2_height, bool luma) : width(1 << log2_width)
{
  int log2_columns = std::min(log2_width, log2_height) < 2 ? 1 : 2, log2_rows = log2_columns;
  if (log2_width + log2_height > 3 && log2_width < 2)
  {
    log2_columns = log2_width;
    log2_rows    = 4 - log2_width;
  }
  else if (log2_width + log2_height > 3 && log2_height < 2)
  {
    log2_rows    = log2_height;
    log2_columns = 4 - log2_height;
  }
  const int columns = 1 << log2_columns, rows = 1 << log2_rows;
  const int across = std::min(width, 32) >> log2_columns, down = std::min(1 << log2_height, 32) >> log2_rows;
  sub_block        = columns * rows;
  size             = across * down * sub_block;

  using namespace coefficient_scan_detail;
  const auto inner = diagonal(columns, rows), outer = diagonal(across, down);
  const auto place = [](const std::vector<std::pair<int, int>>& scan, int x, int y) {
    const auto found = std::find(scan.begin(), scan.end(), std::make_pair(x, y));
    return found == scan.end() ? -1 : int(found - scan.begin());
  };
  std::memset(itself, 0, sizeof itself);
  std::memset(reached, 0, sizeof reached);
  std::memset(beyond, 0, sizeof beyond);
  for (int i = 0; i < sub_block; i++)
  {
    itself[i][i] = 0xff;
    for (int k = 0; k < kTemplate; k++)
    {
      const int x = inner[i].first + kOffsets[k][0], y = inner[i].second + kOffsets[k][1];
      if (x < columns && y < rows)
        reached[place(inner, x, y)][i] = 0xff;
      else if (const int found = place(inner, x % columns, y % rows); x / columns <= 1 && y / rows <= 1)
      {
        TemplateBeyond& to = beyond[x < columns ? 1 : y < rows ? 0 : 2];
        to.from[k][i]    = uint8_t(found);
        to.present[k][i] = 0xff;
        to.any[k]        = true;
      }
    }
  }
  for (const auto& [x, y] : outer)
    beyond_of.push_back({int8_t(place(outer, x + 1, y)), int8_t(place(outer, x, y + 1)), int8_t(place(outer, x + 1, y + 1))});
  for (int i = 0; i < size; i++)
  {
    const int x = outer[i / sub_block].first * columns + inner[i % sub_block].first;
    const int y = outer[i / sub_block].second * rows + inner[i % sub_block].second;
    CoefficientPosition p{uint16_t(y * width + x), uint8_t(x), uint8_t(y), uint8_t(i % sub_block), false, false, 0, 0};
    // Neither the sub-block of the last coefficient nor the first one has a flag.
    p.first = p.inside == sub_block - 1 && i > sub_block && i < size - 1;
    p.last  = p.inside == 0 && i > 0 && i < size - sub_block;
    if (i > 0)
    {
      const int sum      = positions[i - 1].x + positions[i - 1].y;
      p.next_significant = luma ? (sum < 2 ? 8 : sum < 5 ? 4 : 0) : (sum < 2 ? 4 : 0);
      p.next_level       = luma ? (sum < 1 ? 16 : sum < 3 ? 11 : sum < 10 ? 6 : 1) : (sum < 1 ? 6 : 1);
    }
    positions.push_back(p);
  }
}

const CoefficientScan& coefficient_scan(int log2_width, int log2_height, bool luma)
{
  struct All {
    std::unique_ptr<CoefficientScan> scans[7][7][2];
    All()
    {
      for (int w = 0; w < 7; w++)
        for (int h = 0; h < 7; h++)
          for (int c = 0; c < 2 && w + h >= 2; c++) scans[w][h][c].reset(new CoefficientScan(w, h, c != 0));
    }
  };
  static const All all;
  return *all.scans[log2_width][log2_height][luma];
}

}  // namespace fastpart
