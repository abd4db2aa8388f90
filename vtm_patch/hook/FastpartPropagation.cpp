#include "FastpartPropagation.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "FastpartPlane.h"
#include "fastpart/engine/propagation.hpp"

namespace fastpart_hook
{
void adaptQps(const Source &source, const Coding &coding, double strength, std::map<int, int *> &offsets)
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
  int poc = 0, least = 0, greatest = 0;
  for (const std::vector<float> &importance : propagation.importance())
  {
    const std::vector<int> found = fastpart::qp_offsets(importance, source.width, source.height, coding.ctu, strength);
    least    = std::min(least, *std::min_element(found.begin(), found.end()));
    greatest = std::max(greatest, *std::max_element(found.begin(), found.end()));
    std::copy(found.begin(), found.end(), offsets[poc++] = new int[found.size()]);
  }
  std::printf("fastpart: least_qp_offset=%d greatest_qp_offset=%d lookahead_s=%.3f\n", least, greatest,
              double(std::clock() - started) / CLOCKS_PER_SEC);
}
}   // namespace fastpart_hook
