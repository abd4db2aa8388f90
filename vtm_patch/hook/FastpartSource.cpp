#include "FastpartSource.h"

namespace fastpart_hook
{
SourceReader::SourceReader(const Source &source) : m_source(source)
{
  m_input.open(m_source.file, false, m_source.fileBitDepth, m_source.msbExtendedBitDepth, m_source.internalBitDepth);
  m_input.skipFrames(m_source.skipped, m_source.width, m_source.height, m_source.format);
}

void SourceReader::create(PelStorage &picture) const
{
  picture.create(m_source.format, Area(0, 0, m_source.width, m_source.height));
}

bool SourceReader::read(PelStorage &picture)
{
  int noPadding[2] = { 0, 0 };
  return m_next++ < m_source.pictures
         && m_input.read(picture, picture, IPCOLOURSPACE_UNCHANGED, noPadding, m_source.format);
}

void SourceReader::skip(int pictures)
{
  m_next += pictures;
  m_input.skipFrames(pictures, m_source.width, m_source.height, m_source.format);
}
}   // namespace fastpart_hook
