// The adaptive loop filter's estimation with less work and the same results.
#pragma once

#include <algorithm>

#include "EncAdaptiveLoopFilter.h"

#include "FastpartPlane.h"

namespace fastpart_hook
{
// Adds what VTM adds to the statistics for an area of a component at position, or returns false: for samples of more than 10
// bits, and areas that are not of whole blocks. classifier: of luma.
bool addAlfSums(AlfCovariance *covariances, const AlfFilterShape &shape, const Pel *clips, AlfClassifier *const *classifier,
                const CPelBuf &original, const CPelBuf &reconstruction, const Position &position, int ctuHeight, int boundary);

// One round of the search for clipping values: takes the change of one by `step` that has the least error, if that is below
// errorMin. False, and nothing taken, if a system of equations is singular.
bool tryAlfClips(const AlfCovariance &covariance, const AlfClipIdx *clips, const AlfClipIdx *least, int step, double &errorMin,
                 int &changed, int &change);

// What merging two classes gives, kept while neither class changes: VTM merges the classes of a picture's luma filters one
// pair at a time and optimises the clipping of every pair's filter anew after each merge, although only the pairs with the
// merged class have changed. Kept results are the same doubles.
class AlfPairs
{
public:
  bool   known(int i, int j) const { return m_pairs[i][j].known; }
  double error(int i, int j) const { return m_pairs[i][j].error; }
  void   clipping(int i, int j, AlfClipIdx *clip) const { std::copy_n(m_pairs[i][j].clip, MAX_NUM_ALF_LUMA_COEFF, clip); }

  void keep(int i, int j, double error, const AlfClipIdx *clip)
  {
    m_pairs[i][j].known = true;
    m_pairs[i][j].error = error;
    std::copy_n(clip, MAX_NUM_ALF_LUMA_COEFF, m_pairs[i][j].clip);
  }

  // Class i is another one now.
  void forget(int i)
  {
    for (int j = 0; j < MAX_NUM_ALF_CLASSES; j++)
    {
      m_pairs[i][j].known = m_pairs[j][i].known = false;
    }
  }

private:
  struct Pair
  {
    bool       known = false;
    double     error;
    AlfClipIdx clip[MAX_NUM_ALF_LUMA_COEFF];
  };
  Pair m_pairs[MAX_NUM_ALF_CLASSES][MAX_NUM_ALF_CLASSES];   // of classes i < j
};
}   // namespace fastpart_hook
