#include "FastpartChroma.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "CommonLib/Unit.h"
#include "Utilities/VideoIOYuv.h"

#include "FastpartPlane.h"
#include "fastpart/engine/chroma.hpp"

namespace fastpart_hook
{
namespace
{
constexpr int LOOKED_AT     = 16;   // pairs of pictures, evenly spread
constexpr int LOWEST_OFFSET = -12;

fastpart::PicturePlanes planes(const PelStorage &picture)
{
  return { plane(picture.Y()), plane(picture.Cb()), plane(picture.Cr()) };
}
}   // namespace

void adaptChroma(const Source &source, int qp, int &cbOffset, int &crOffset, int &cbCrOffset, std::vector<int> &pictureQps)
{
  if (source.format != ChromaFormat::_420)
  {
    std::fprintf(stderr, "fastpart: FastPartChroma is for 4:2:0, the input is not; leave the option out\n");
    std::exit(EXIT_FAILURE);
  }
  PelStorage pictures[2];
  for (PelStorage &picture : pictures)
  {
    picture.create(source.format, Area(0, 0, source.width, source.height));
  }
  VideoIOYuv input;
  input.open(source.file, false, source.fileBitDepth, source.msbExtendedBitDepth, source.internalBitDepth);
  input.skipFrames(source.skipped, source.width, source.height, source.format);
  const auto read = [&](int number, PelStorage &picture)
  {
    int noPadding[2] = { 0, 0 };
    return number < source.pictures && input.read(picture, picture, IPCOLOURSPACE_UNCHANGED, noPadding, source.format);
  };
  const int              step = std::max(2, source.pictures / LOOKED_AT);
  fastpart::ChromaDetail detail;
  for (int number = 0; read(number, pictures[0]); number += step)
  {
    const bool                    followed = read(number + 1, pictures[1]);
    const fastpart::PicturePlanes next     = planes(pictures[1]);
    detail.add(planes(pictures[0]), followed ? &next : nullptr, source.width, source.height);
    input.skipFrames(step - 2, source.width, source.height, source.format);
  }
  input.close();
  const int offset = fastpart::chroma_qp_offset(detail.ratio(), qp);
  for (int *each : { &cbOffset, &crOffset, &cbCrOffset })
  {
    *each = std::max(LOWEST_OFFSET, *each + offset);
  }
  const int increment = fastpart::qp_increment(offset);
  for (int &each : pictureQps)
  {
    each += increment;
  }
  std::printf("fastpart: chroma_detail=%.4f chroma_qp_offset=%d qp_increment=%d\n", detail.ratio(), offset, increment);
}
}   // namespace fastpart_hook
