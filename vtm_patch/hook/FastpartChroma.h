// Chroma QP offsets from the source, before the parameter sets are made.
#pragma once

#include <vector>

#include "CommonLib/SequenceParameterSet.h"

#include "FastpartSource.h"

namespace fastpart_hook
{
// Adds the offset that suits source and base QP to the three, down to the lowest that a picture parameter set can have, and
// lowers the tables that map luma to chroma QPs by the rest; adds what gives back its rate to the QP of every picture, and
// prints both. Ends the program with a message if the source is not 4:2:0.
void adaptChroma(const Source &source, int qp, int &cbOffset, int &crOffset, int &cbCrOffset,
                 ChromaQpMappingTableParams &tables, std::vector<int> &pictureQps);
}   // namespace fastpart_hook
