// What merging two classes of the adaptive loop filter gives, kept while neither class changes.
//
// VTM merges the classes of a picture's luma filters one pair at a time and optimises the clipping of every pair's filter
// anew after each merge, although only the pairs with the merged class have changed. Kept results are the same doubles.
#pragma once

#include <algorithm>

#include "CommonLib/AlfParameters.h"

namespace fastpart_hook
{
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
