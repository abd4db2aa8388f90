#include "FastpartPropagation.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "FastpartPlane.h"
#include "fastpart/engine/propagation.hpp"

namespace fastpart_hook
{
namespace
{
std::vector<fastpart::QpOffsets> offsets;   // by POC
}

bool qpsVary = false;

int qpOffset(int poc, const Area &luma)
{
  return size_t(poc) < offsets.size()
           ? offsets[size_t(poc)].at(luma.x, luma.y, int(luma.width), int(luma.height)) : 0;
}

void searchQpOffsets(const Source &source, const Coding &coding, double strength)
{
  if (!(strength > 0))
  {
    std::fprintf(stderr, "fastpart: found FastPartPropagation %g, wanted 0 or more\n", strength);
    std::exit(EXIT_FAILURE);
  }
  if (!coding.lastFirst || coding.gop & (coding.gop - 1))
  {
    std::fprintf(stderr,
                 "fastpart: FastPartPropagation is for random access, found a group of %d pictures%s, wanted a power of two "
                 "and the last of them coded first; leave the option out\n",
                 coding.gop, coding.lastFirst ? "" : " coded in another order");
    std::exit(EXIT_FAILURE);
  }
  const std::clock_t    started = std::clock();
  PelStorage            picture;
  SourceReader          reader(source);
  fastpart::Propagation propagation(source.width, source.height, source.internalBitDepth[ChannelType::LUMA], coding.gop,
                                    coding.intraPeriod, coding.qp);
  reader.create(picture);
  while (reader.read(picture))
  {
    propagation.add(plane(picture.Y()));
  }
  int       least = 0, greatest = 0;
  const int side = coding.quantisationGroup;
  for (std::vector<float> &importance : propagation.importance())
  {
    offsets.emplace_back(std::move(importance), source.width, source.height, strength);
    for (int y = 0; y < source.height; y += side)
    {
      for (int x = 0; x < source.width; x += side)
      {
        const int offset = offsets.back().at(x, y, side, side);
        least            = std::min(least, offset);
        greatest         = std::max(greatest, offset);
      }
    }
  }
  qpsVary = true;
  std::printf("fastpart: least_qp_offset=%d greatest_qp_offset=%d lookahead_s=%.3f\n", least, greatest,
              double(std::clock() - started) / CLOCKS_PER_SEC);
}
}   // namespace fastpart_hook
