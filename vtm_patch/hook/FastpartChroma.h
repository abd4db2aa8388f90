// Chroma QP offsets from the source, before the parameter sets are made.
#pragma once

#include <string>
#include <vector>

#include "CommonLib/CommonDef.h"

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

// Adds the offset that suits source and base QP to the three, down to the lowest that H.266 allows (7.4.3.5), adds what gives
// back its rate to the QP of every picture, and prints both. Ends the program with a message if the source is not 4:2:0.
void adaptChroma(const Source &source, int qp, int &cbOffset, int &crOffset, int &cbCrOffset, std::vector<int> &pictureQps);
}   // namespace fastpart_hook
