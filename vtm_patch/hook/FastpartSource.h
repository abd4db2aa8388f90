// The encoder's input, read ahead of the encoder.
#pragma once

#include <string>

#include "CommonLib/CommonDef.h"
#include "CommonLib/Unit.h"
#include "Utilities/VideoIOYuv.h"

namespace fastpart_hook
{
// The input as the encoder will read it: a file, since it is read twice. Sizes in luma samples, without padding.
struct Source
{
  std::string  file;
  BitDepths    fileBitDepth, msbExtendedBitDepth, internalBitDepth;
  int          width, height;
  ChromaFormat format;
  int          skipped, pictures;   // before the first to be coded, to be coded
};

// Pictures at the internal bit depth, from the first to be coded on.
class SourceReader
{
public:
  explicit SourceReader(const Source &source);
  // Makes room to read into.
  void create(PelStorage &picture) const;
  // False after the last to be coded or where the file ends.
  bool read(PelStorage &picture);
  void skip(int pictures);

private:
  Source     m_source;
  VideoIOYuv m_input;
  int        m_next = 0;
};
}   // namespace fastpart_hook
