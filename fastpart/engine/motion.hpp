// Motion of blocks of the source from picture to picture.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "node.hpp"

namespace fastpart {

constexpr int kMotionBlock = 16;        // luma samples, each way
constexpr int kMotionBits  = 10;        // per sample, whatever the source has

using MotionSamples = std::array<int, kMotionBlock * kMotionBlock>;

struct Motion { int16_t x = 0, y = 0; };

// A luma picture, the same at half the size and so on, with room around each for motion that leaves it.
class Pyramid {
 public:
  static constexpr int kPad = 64;
  struct Level {
    int                  width, height, stride;
    std::vector<int16_t> samples;
    const int16_t*       at(int x, int y) const { return &samples[size_t(y + kPad) * size_t(stride) + size_t(x + kPad)]; }
    int16_t*             at(int x, int y) { return &samples[size_t(y + kPad) * size_t(stride) + size_t(x + kPad)]; }
  };

  // The first width x height samples, multiples of kMotionBlock, of a plane of bit_depth.
  Pyramid(Plane luma, int width, int height, int bit_depth);
  const std::vector<Level>& levels() const { return levels_; }
  void                      clear() { levels_.clear(); }

 private:
  std::vector<Level> levels_;
};

// What a reference has for a block.
struct Match {
  Motion        motion;       // half samples
  MotionSamples prediction;
  int64_t       error;        // squared, of all samples
};

// Motion of every block of `from` to `to` in raster order, in samples of half the size: from coarse to fine, each block from
// where those around its parent went. distance: in pictures.
std::vector<Motion> coarse_motion(const Pyramid& from, const Pyramid& to, int distance);

// The block at (x, y), followed to half a sample. coarse: of the block, as above.
Match match(const MotionSamples& block, int x, int y, const Pyramid& to, Motion coarse);

// The block at (x, y).
MotionSamples block_at(const Pyramid& picture, int x, int y);

int64_t squared_error(const MotionSamples& a, const MotionSamples& b);

}  // namespace fastpart
