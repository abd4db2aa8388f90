#include "picture.hpp"

#include <algorithm>
#include <cstdlib>

namespace fastpart {

void PictureStats::build(Plane luma, int width, int height)
{
  columns_ = width / 4 + 1;
  rows_    = height / 4 + 1;
  prefix_.assign(size_t(columns_) * rows_, Cell{0, 0, 0, 0});
  for (int by = 0; by + 1 < rows_; by++)
  {
    Cell row{0, 0, 0, 0};
    for (int bx = 0; bx + 1 < columns_; bx++)
    {
      int64_t sum = 0, squares = 0, gh = 0, gv = 0;
      for (int y = by * 4; y < by * 4 + 4; y++)
      {
        const int16_t* line  = luma.samples + y * luma.stride;
        const int16_t* below = y + 1 < height ? line + luma.stride : line;
        for (int x = bx * 4; x < bx * 4 + 4; x++)
        {
          const int v = line[x];
          sum += v;
          squares += v * v;
          gh += x + 1 < width ? std::abs(line[x + 1] - v) : 0;
          gv += std::abs(below[x] - v);
        }
      }
      row.sum += double(sum);
      row.squares += double(squares);
      row.gradient_h += double(gh);
      row.gradient_v += double(gv);
      const Cell& up = prefix_[size_t(by) * columns_ + bx + 1];
      prefix_[size_t(by + 1) * columns_ + bx + 1] = {row.sum + up.sum, row.squares + up.squares,
                                                     row.gradient_h + up.gradient_h,
                                                     row.gradient_v + up.gradient_v};
    }
  }
}

void SizeHistory::begin_picture(int poc, int width, int height)
{
  const int columns = (width + 3) / 4, rows = (height + 3) / 4;
  if (columns != columns_ || rows != rows_)
  {
    maps_.clear();
    columns_ = columns;
    rows_    = rows;
  }
  poc_ = poc;
  maps_.erase(poc);
  while (maps_.size() >= kPictures)
  {
    maps_.erase(std::min_element(maps_.begin(), maps_.end(), [](const auto& a, const auto& b) {
      return a.second.age < b.second.age;
    }));
  }
  nearest_ = nullptr;
  for (const auto& [other, map] : maps_)
  {
    const int distance = std::abs(other - poc);
    if (!nearest_ || distance < nearest_distance_)
    {
      nearest_          = &map;
      nearest_distance_ = distance;
    }
  }
  maps_[poc] = {std::vector<uint8_t>(size_t(columns_) * rows_, 0), clock_++};
}

void SizeHistory::record(int x, int y, int w, int h)
{
  uint8_t log2_area = 0;
  while ((1 << (log2_area + 1)) <= w * h) log2_area++;
  std::vector<uint8_t>& map = maps_[poc_].log2_area;
  for (int row = y / 4; row < std::min((y + h) / 4, rows_); row++)
  {
    const int from = x / 4, to = std::min((x + w) / 4, columns_);
    if (from < to) std::fill_n(map.begin() + size_t(row) * columns_ + from, to - from, log2_area);
  }
}

bool SizeHistory::lookup(int x, int y, int w, int h, float& mean, float& minimum, int& poc_distance) const
{
  if (!nearest_) return false;
  int sum = 0, least = 255;
  for (int j = 1; j < 8; j += 2)
  {
    const int row = std::min((y + h * j / 8) / 4, rows_ - 1);
    for (int i = 1; i < 8; i += 2)
    {
      const int column = std::min((x + w * i / 8) / 4, columns_ - 1);
      const int size   = nearest_->log2_area[size_t(row) * columns_ + column];
      sum += size;
      least = std::min(least, size);
    }
  }
  mean         = float(sum) / 16;
  minimum      = float(least);
  poc_distance = nearest_distance_;
  return true;
}

}  // namespace fastpart
