// Per-picture sums that give texture features of any block in constant time, and the block sizes
// chosen in pictures already coded.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "node.hpp"

namespace fastpart {

// Sums over a rectangle of luma samples.
struct BlockSums {
  double sum = 0, squares = 0, gradient_h = 0, gradient_v = 0, samples = 0;
  double variance() const;
};

class PictureStats {
 public:
  // Builds the sums of a width x height luma plane, on a grid of 4x4 samples.
  void build(Plane luma, int width, int height);
  // Sums over [x, x+w) x [y, y+h), all multiples of 4; parts outside the picture do not count.
  BlockSums sums(int x, int y, int w, int h) const;

 private:
  struct Cell { double sum, squares, gradient_h, gradient_v; };
  int               columns_ = 0, rows_ = 0;   // of the prefix table, one more than the grid
  std::vector<Cell> prefix_;
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
