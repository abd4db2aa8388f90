#include "FastpartAlf.h"

#include <vector>

#include "fastpart/engine/alf.hpp"
#include "fastpart/engine/alf_clipping.hpp"

namespace fastpart_hook
{
bool addAlfSums(AlfCovariance *covariances, const AlfFilterShape &shape, const Pel *clips, AlfClassifier *const *classifier,
                const CPelBuf &original, const CPelBuf &reconstruction, const Position &position, int ctuHeight, int boundary)
{
  constexpr int block  = fastpart::kAlfBlock;
  const int     width  = original.width;
  const int     height = original.height;
  if (clips[0] > 1 << fastpart::kAlfBitDepth || (width | height | position.x | position.y) % block != 0)
  {
    return false;
  }
  fastpart::AlfArea area{ plane(reconstruction), plane(original), width, height, shape.filterLength / 2, position.y,
                          ctuHeight, boundary, {} };
  std::copy_n(clips, fastpart::kAlfClips, area.clips.begin());

  std::vector<fastpart::AlfKind> kinds;
  if (classifier)
  {
    for (int y = 0; y < height; y += block)
    {
      for (int x = 0; x < width; x += block)
      {
        const AlfClassifier &here = classifier[position.y + y][position.x + x];
        kinds.push_back({ here.classIdx, here.transposeIdx });
      }
    }
  }
  std::vector<fastpart::AlfSums> sums;
  for (int i = 0; i < (classifier ? MAX_NUM_ALF_CLASSES : 1); i++)
  {
    sums.push_back({ covariances[i].data.data(), covariances[i].data.data() + covariances[i].offsetE, &covariances[i].pixAcc });
  }
  fastpart::add_alf_sums(area, kinds, sums);
  return true;
}

bool tryAlfClips(const AlfCovariance &covariance, const AlfClipIdx *clips, const AlfClipIdx *least, int step, double &errorMin,
                 int &changed, int &change)
{
  std::vector<fastpart::AlfTry> tries;
  for (int i = 0; i < covariance.numCoeff - 1; i++)
  {
    if (clips[i] - step >= least[i])
    {
      tries.push_back({ i, clips[i] - step });
    }
    if (clips[i] + step < covariance.numBins)
    {
      tries.push_back({ i, clips[i] + step });
    }
  }
  int values[MAX_NUM_ALF_LUMA_COEFF];
  std::copy_n(clips, covariance.numCoeff, values);
  const std::vector<double> errors =
    fastpart::alf_errors({ covariance.data.data(), covariance.data.data() + covariance.offsetE, covariance.pixAcc,
                           covariance.numCoeff }, values, tries);
  if (errors.size() != tries.size())
  {
    return false;
  }
  for (size_t i = 0; i < tries.size(); i++)
  {
    if (errors[i] < errorMin)
    {
      errorMin = errors[i];
      changed  = tries[i].coefficient;
      change   = tries[i].clip - clips[changed];
    }
  }
  return true;
}
}   // namespace fastpart_hook
