#include "FastpartChroma.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "FastpartPlane.h"
#include "fastpart/engine/chroma.hpp"

namespace fastpart_hook
{
namespace
{
constexpr int LOOKED_AT     = 16;   // pairs of pictures, evenly spread
constexpr int LOWEST_OFFSET = -12;  // of a picture parameter set: H.266, 7.4.3.5
constexpr int TABLE_START   = 26;   // what qpTableStartMinus26 is less

fastpart::PicturePlanes planes(const PelStorage &picture)
{
  return { plane(picture.Y()), plane(picture.Cb()), plane(picture.Cr()) };
}

// Lowers the chroma QPs of a table for luma QPs above 0 by this much (H.266, 7.4.3.4): two points before the table's own,
// between which it is level. The second is not below 0, for decoders that read it without its sign (ffmpeg 9); lowest is the
// lowest QP of the bit depth. Leaves a table that starts too low for that.
void lower(ChromaQpMappingTableParams &tables, int table, int by, int lowest)
{
  std::vector<int> &in = tables.m_deltaQpInValMinus1[table], &out = tables.m_deltaQpOutVal[table];
  const int         level = std::max(lowest, -by);
  const int         room  = tables.m_qpTableStartMinus26[table] + TABLE_START - by - level;
  if (room <= 0)
  {
    return;
  }
  in.insert(in.begin(), { by - 1, room - 1 });
  out.insert(out.begin(), { 0, room });
  tables.m_numPtsInCQPTableMinus1[table] += 2;
  tables.m_qpTableStartMinus26[table] = level - TABLE_START;
}
}   // namespace

void adaptChroma(const Source &source, int qp, int &cbOffset, int &crOffset, int &cbCrOffset,
                 ChromaQpMappingTableParams &tables, std::vector<int> &pictureQps)
{
  if (source.format != ChromaFormat::_420)
  {
    std::fprintf(stderr, "fastpart: FastPartChroma is for 4:2:0, the input is not; leave the option out\n");
    std::exit(EXIT_FAILURE);
  }
  SourceReader reader(source);
  PelStorage   pictures[2];
  for (PelStorage &picture : pictures)
  {
    reader.create(picture);
  }
  const int              step = std::max(2, source.pictures / LOOKED_AT);
  fastpart::ChromaDetail detail;
  while (reader.read(pictures[0]))
  {
    const bool                    followed = reader.read(pictures[1]);
    const fastpart::PicturePlanes next     = planes(pictures[1]);
    detail.add(planes(pictures[0]), followed ? &next : nullptr, source.width, source.height);
    reader.skip(step - 2);
  }
  const int offset = fastpart::chroma_qp_offset(detail.ratio(), qp), ofTables = std::max(0, LOWEST_OFFSET - offset);
  for (int *each : { &cbOffset, &crOffset, &cbCrOffset })
  {
    *each = std::max(LOWEST_OFFSET, *each + offset + ofTables);
  }
  for (int table = 0; ofTables && table < (tables.m_sameCQPTableForAllChromaFlag ? 1 : MAX_NUM_CQP_MAPPING_TABLES); table++)
  {
    lower(tables, table, ofTables, -6 * (source.internalBitDepth[ChannelType::CHROMA] - 8));
  }
  const int increment = fastpart::qp_increment(offset);
  for (int &each : pictureQps)
  {
    each += increment;
  }
  std::printf("fastpart: chroma_detail=%.4f chroma_qp_offset=%d qp_increment=%d\n", detail.ratio(), offset, increment);
}
}   // namespace fastpart_hook
