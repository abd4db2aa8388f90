// Per-picture sums that give texture features of any block in constant time, and the block sizes
// chosen in pictures already coded.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

#include "node.hpp"

namespace fastpart {

// Sums over a rectangle of luma samples.
struct BlockSums {
  double sum = 0, squares = 0, gradient_h = 0, gradient_v = 0, samples = 0;
  double variance() const
  {
    if (samples <= 0) return 0;
    const double mean = sum / samples;
    return std::max(0.0, squares / samples - mean * mean);
  }
};

class PictureStats {
 public:
  // Builds the sums of a width x height luma plane, on a grid of 4x4 samples.
  void build(Plane luma, int width, int height);

 private:
  friend class BlockGrid;
  struct Cell { double sum, squares, gradient_h, gradient_v; };
  int               columns_ = 0, rows_ = 0;   // of the prefix table, one more than the grid
  std::vector<Cell> prefix_;
};

// The sums of a block and of its parts, between lines at its quarters.
class BlockGrid {
 public:
  // The block [x, x+w) x [y, y+h), all multiples of 4; what lies outside the picture does not count.
  BlockGrid(const PictureStats& picture, int x, int y, int w, int h) : picture_(picture)
  {
    for (int i = 0; i <= 4; i++)
    {
      column_[i] = std::min((x + w * i / 4) / 4, picture.columns_ - 1);
      row_[i]    = std::min((y + h * i / 4) / 4, picture.rows_ - 1);
    }
  }
  // From line x0 to x1 and from y0 to y1, of 0 to 4; lines lie on multiples of 4 samples.
  BlockSums sums(int x0, int y0, int x1, int y1) const
  {
    const auto& a = at(x0, y0);
    const auto& b = at(x1, y0);
    const auto& c = at(x0, y1);
    const auto& d = at(x1, y1);
    return {d.sum - b.sum - c.sum + a.sum, d.squares - b.squares - c.squares + a.squares,
            d.gradient_h - b.gradient_h - c.gradient_h + a.gradient_h,
            d.gradient_v - b.gradient_v - c.gradient_v + a.gradient_v,
            16.0 * (column_[x1] - column_[x0]) * (row_[y1] - row_[y0])};
  }

 private:
  const PictureStats::Cell& at(int x, int y) const
  {
    return picture_.prefix_[size_t(row_[y]) * picture_.columns_ + column_[x]];
  }

  const PictureStats& picture_;
  int                 column_[5], row_[5];
};

// log2 of the area of the coding unit that covers each 4x4 block, per coded picture.
class SizeHistory {
 public:
  void begin_picture(int poc, int width, int height);
  void record(int x, int y, int w, int h);
  // Mean and minimum of log2 area over the block in the nearest other picture by POC; false if there is none.
  bool lookup(int x, int y, int w, int h, float& mean, float& minimum, int& poc_distance) const;

 private:
  static constexpr size_t kPictures = 40;      // more than the longest decoded-picture buffer of a GOP of 32
  struct Map { std::vector<uint8_t> log2_area; uint64_t age; };
  int                columns_ = 0, rows_ = 0, poc_ = 0;
  uint64_t           clock_ = 0;
  std::map<int, Map> maps_;
  const Map*         nearest_ = nullptr;
  int                nearest_distance_ = 0;
};

}  // namespace fastpart
