#include "features.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace fastpart {

namespace features_detail {

constexpr float kMissing = std::numeric_limits<float>::quiet_NaN();
constexpr float kLn2     = 0.69314718f;
constexpr float kLeast   = 1e-3f;              // of a cost, so that its logarithm exists
constexpr int   kMaxSize = 128;                // of a node, in luma samples

// What extract needs the logarithm of: costs, and costs per luma sample.
enum Logged : int {
  kBest, kUnsplit, kSplit, kPartial = kSplit + kSplits, kDue, kHere, kParent, kGrandparent, kAffordable, kCostPlus1, kBitsPlus1,
  kLogged
};

// Parent's split as seen from a split that cuts vertically or horizontally: -1 none, 0 QT, 1/2 BT, 3/4 TT of
// the same / the other orientation.
float relative_split(Candidate parent, bool vertical)
{
  switch (parent)
  {
  case Candidate::SplitQt: return 0;
  case Candidate::SplitBtH: return vertical ? 2 : 1;
  case Candidate::SplitBtV: return vertical ? 1 : 2;
  case Candidate::SplitTtH: return vertical ? 4 : 3;
  case Candidate::SplitTtV: return vertical ? 3 : 4;
  default: return -1;
  }
}

void neighbour(const Neighbour& n, const NodeGeometry& node, bool vertical, int log2w, int log2h, float* out)
{
  if (!n.present)
  {
    std::fill_n(out, 4, kMissing);
    return;
  }
  const float w = float(n.log2_width - log2w), h = float(n.log2_height - log2h);
  out[0] = vertical ? w : h;
  out[1] = vertical ? h : w;
  out[2] = float(n.qt_depth - node.qt_depth);
  out[3] = float(n.mt_depth - node.mt_depth);
}

}  // namespace features_detail

using namespace features_detail;

void NodeFeatures::prepare_texture(const NodeGeometry& n, const PictureStats& picture, const SizeHistory& history)
{
  texture_ready  = true;
  const int w    = n.width, h = n.height;
  const BlockGrid grid(picture, n.x, n.y, w, h);
  const BlockSums whole = grid.sums(0, 0, 4, 4);
  const double    var   = whole.variance();
  const double    count = std::max(1.0, whole.samples);
  variance   = fast_log2(float(var) + 1);
  gradient_h = fast_log2(float(whole.gradient_h / count) + 0.125f);
  gradient_v = fast_log2(float(whole.gradient_v / count) + 0.125f);

  auto part = [&](int x0, int y0, int x1, int y1) { return grid.sums(x0, y0, x1, y1).variance(); };   // quarters
  auto within = [&](double mean) { return fast_log2(float(mean) + 1) - variance; };
  if (h >= 8) within_h = within((part(0, 0, 4, 2) + part(0, 2, 4, 4)) / 2);
  if (w >= 8) within_v = within((part(0, 0, 2, 4) + part(2, 0, 4, 4)) / 2);
  if (w >= 8 && h >= 8)
  {
    const double q[4] = {part(0, 0, 2, 2), part(2, 0, 4, 2), part(0, 2, 2, 4), part(2, 2, 4, 4)};
    within_quad = within((q[0] + q[1] + q[2] + q[3]) / 4);
    contrast    = fast_log2(float(*std::max_element(q, q + 4)) + 1) - fast_log2(float(*std::min_element(q, q + 4)) + 1);
  }
  if (h >= 16) within_triple_h = within((part(0, 0, 4, 1) + 2 * part(0, 1, 4, 3) + part(0, 3, 4, 4)) / 4);
  if (w >= 16) within_triple_v = within((part(0, 0, 1, 4) + 2 * part(1, 0, 3, 4) + part(3, 0, 4, 4)) / 4);

  int distance = 0;
  has_history  = history.lookup(n.x, n.y, w, h, history_mean, history_min, distance);
  if (has_history)
  {
    const int log2_area = log2_of(w) + log2_of(h);
    history_mean -= float(log2_area);
    history_min -= float(log2_area);
    history_distance = float(distance);
  }
}

void NodeFeatures::prepare_error(Plane original, Plane reconstruction, int width, int height)
{
  error_ready   = true;
  float     cell[4][4];
  const int w = width / 4, h = height / 4;
  for (int j = 0; j < 4; j++)
  {
    int32_t column[kMaxSize] = {};             // long rows for the vector unit, however small the cells
    for (int y = j * h; y < (j + 1) * h; y++)
    {
      const int16_t* a = original.samples + y * original.stride;
      const int16_t* b = reconstruction.samples + y * reconstruction.stride;
      for (int x = 0; x < width; x++)
      {
        const auto d = std::clamp(int16_t(a[x] - b[x]), int16_t(-4095), int16_t(4095));   // 128 such squares fit
        column[x] += int32_t(d) * d;
      }
    }
    for (int i = 0; i < 4; i++)
      cell[j][i] = float(std::accumulate(column + i * w, column + (i + 1) * w, int64_t(0))) / float(w * h);
  }
  auto area = [&](int x0, int y0, int x1, int y1) {
    float sum = 0;
    for (int y = y0; y < y1; y++)
      for (int x = x0; x < x1; x++) sum += cell[y][x];
    return sum / float((x1 - x0) * (y1 - y0)) + 0.25f;
  };
  auto unequal = [&](float a, float b) { return std::fabs(fast_log2(a) - fast_log2(b)); };
  error_level    = fast_log2(area(0, 0, 4, 4));
  error_h        = unequal(area(0, 0, 4, 2), area(0, 2, 4, 4));
  error_v        = unequal(area(0, 0, 2, 4), area(2, 0, 4, 4));
  const float q[4] = {area(0, 0, 2, 2), area(2, 0, 4, 2), area(0, 2, 2, 4), area(2, 2, 4, 4)};
  error_quad     = unequal(*std::max_element(q, q + 4), *std::min_element(q, q + 4));
  error_middle_h = fast_log2(area(0, 1, 4, 3)) - fast_log2((area(0, 0, 4, 1) + area(0, 3, 4, 4)) / 2);
  error_middle_v = fast_log2(area(1, 0, 3, 4)) - fast_log2((area(0, 0, 1, 4) + area(3, 0, 4, 4)) / 2);
}

void extract(const NodeGeometry& n, Candidate parent_split, const NodeFeatures& c, const Budget& budget,
             const Question& q, float* f)
{
  const Candidate split    = q.candidate == Candidate::Continue ? q.under_way : q.candidate;
  const bool      vertical = is_vertical(split);
  const int       log2w = log2_of(n.width), log2h = log2_of(n.height);
  const double    area = double(n.width) * n.height;

  f[kQp]          = n.qp;
  f[kTemporalId]  = n.temporal_id;
  f[kIntraSlice]  = n.intra_slice;
  f[kChroma]      = n.chroma;
  f[kLog2Along]   = float(vertical ? log2w : log2h);
  f[kLog2Across]  = float(vertical ? log2h : log2w);
  f[kQtDepth]     = n.qt_depth;
  f[kBtDepth]     = n.bt_depth;
  f[kMtDepth]     = n.mt_depth;
  f[kMtLeft]      = float(n.max_mt_depth - n.mt_depth);
  f[kParentSplit] = relative_split(parent_split, vertical);
  f[kChildIndex]  = n.child_index;
  neighbour(vertical ? n.left : n.above, n, vertical, log2w, log2h, f + kBeforeAlong);
  neighbour(vertical ? n.above : n.left, n, vertical, log2w, log2h, f + kBesideAlong);
  f[kNeighbourSkips]  = float(n.left.skip) + float(n.above.skip);
  f[kNeighbourIntras] = float(n.left.intra) + float(n.above.intra);
  f[kWasInter] = n.was_inter;
  f[kWasIntra] = n.was_intra;
  f[kWasSkip]  = n.was_skip;

  f[kCollocatedMean]     = c.has_history ? c.history_mean : kMissing;
  f[kCollocatedMin]      = c.has_history ? c.history_min : kMissing;
  f[kCollocatedDistance] = c.has_history ? c.history_distance : kMissing;
  f[kVariance]       = c.variance;
  f[kGradientAlong]  = vertical ? c.gradient_h : c.gradient_v;
  f[kGradientAcross] = vertical ? c.gradient_v : c.gradient_h;
  f[kWithinAlong]    = vertical ? c.within_v : c.within_h;
  f[kWithinAcross]   = vertical ? c.within_h : c.within_v;
  f[kWithinQuad]     = c.within_quad;
  f[kWithinTriple]   = vertical ? c.within_triple_v : c.within_triple_h;
  f[kQuadContrast]   = c.contrast;
  f[kErrorLevel]  = c.error_ready ? c.error_level : kMissing;
  f[kErrorAlong]  = c.error_ready ? (vertical ? c.error_v : c.error_h) : kMissing;
  f[kErrorAcross] = c.error_ready ? (vertical ? c.error_h : c.error_v) : kMissing;
  f[kErrorQuad]   = c.error_ready ? c.error_quad : kMissing;
  f[kErrorMiddle] = c.error_ready ? (vertical ? c.error_middle_v : c.error_middle_h) : kMissing;

  const BestSoFar& b       = q.best;
  const float      density = b.present ? float(b.cost / area) : 0;
  float            log2[kLogged];
  log2[kBest]    = float(b.cost) + kLeast;
  log2[kUnsplit] = float(q.unsplit_cost) + kLeast;
  for (int i = 0; i < kSplits; i++) log2[kSplit + i] = float(q.split_cost[size_t(i)]) + kLeast;
  log2[kPartial]     = float(q.partial_cost) + kLeast;
  log2[kDue]         = float(b.cost * q.done) + kLeast;
  log2[kHere]        = density + kLeast;
  log2[kParent]      = budget.parent_density + kLeast;
  log2[kGrandparent] = budget.grandparent_density + kLeast;
  log2[kAffordable]  = budget.affordable + kLeast;
  log2[kCostPlus1]   = float(b.cost / area) + 1;
  log2[kBitsPlus1]   = float(b.bits / area) + 1;
  for (float& value : log2) value = fast_log2(value);   // all at once, in the vector unit
  auto log_ratio = [&log2](Logged a, Logged b) { return kLn2 * (log2[a] - log2[b]); };

  f[kBestCost]            = b.present ? log2[kCostPlus1] : kMissing;
  f[kBestDistortionShare] = b.present ? float((b.cost - b.bits) / (b.cost + 1)) : kMissing;
  f[kBestBits]            = b.present ? log2[kBitsPlus1] : kMissing;
  f[kBestUnits]  = float(b.coding_units);
  f[kBestSkip]   = b.skip;
  f[kBestMerge]  = b.merge;
  f[kBestIntra]  = b.intra;
  f[kBestAffine] = b.affine;
  f[kBestGeo]    = b.geo;
  f[kBestCiip]   = b.ciip;
  f[kBestMmvd]   = b.mmvd;
  f[kBestBi]     = b.bi;
  f[kBestCbf]    = b.root_cbf;
  f[kBestAmvr]   = b.amvr;

  auto ratio = [&](double cost, int which) {
    return cost > 0 && b.present ? log_ratio(Logged(which), kBest) : kMissing;
  };
  auto split_ratio = [&](Candidate tested) { return ratio(q.split_cost[size_t(tested)], kSplit + int(tested)); };
  f[kUnsplitRatio] = ratio(q.unsplit_cost, kUnsplit);
  f[kQtRatio]      = split_ratio(Candidate::SplitQt);
  f[kBtSameRatio]  = split_ratio(vertical ? Candidate::SplitBtV : Candidate::SplitBtH);
  f[kBtOtherRatio] = split_ratio(vertical ? Candidate::SplitBtH : Candidate::SplitBtV);
  f[kTtSameRatio]  = split_ratio(vertical ? Candidate::SplitTtV : Candidate::SplitTtH);
  f[kTtOtherRatio] = split_ratio(vertical ? Candidate::SplitTtH : Candidate::SplitTtV);
  f[kBestIsSplit]   = b.coding_units > 1;
  f[kTested]        = float(q.tested);

  f[kParentDensity]      = density > 0 && budget.parent_density > 0 ? log_ratio(kHere, kParent) : kMissing;
  f[kGrandparentDensity] = density > 0 && budget.grandparent_density > 0 ? log_ratio(kHere, kGrandparent) : kMissing;
  f[kPaceParent] = budget.pace_parent;
  f[kPaceLeast]  = budget.pace_least;
  f[kPaceMine]   = density > 0 && budget.affordable > 0 ? log_ratio(kAffordable, kHere) : kMissing;

  // Orientation is in the vector already: H and V splits are one kind.
  f[kCandidate] = float(int(split) - int(vertical));
  const bool going = q.candidate == Candidate::Continue;
  f[kDone]           = going ? q.done : 0;
  f[kPartialRatio]   = going && b.present ? log_ratio(kPartial, kDue) : kMissing;
  f[kRemainderRatio] = going && b.present ? float((b.cost - q.partial_cost) / (b.cost * (1 - q.done) + 1)) : kMissing;
}

std::vector<std::string> feature_names()
{
  return {"qp", "temporal_id", "intra_slice", "chroma", "log2_along", "log2_across", "qt_depth", "bt_depth",
          "mt_depth", "mt_left", "parent_split", "child_index", "before_along", "before_across", "before_qt",
          "before_mt", "beside_along", "beside_across", "beside_qt", "beside_mt", "neighbour_skips",
          "neighbour_intras", "was_inter", "was_intra", "was_skip", "collocated_mean", "collocated_min",
          "collocated_distance", "variance", "gradient_along", "gradient_across", "within_along", "within_across",
          "within_quad", "within_triple", "quad_contrast", "error_level", "error_along", "error_across",
          "error_quad", "error_middle", "best_cost", "best_distortion_share", "best_bits", "best_units", "best_skip",
          "best_merge", "best_intra", "best_affine", "best_geo", "best_ciip", "best_mmvd", "best_bi", "best_cbf",
          "best_amvr", "unsplit_ratio", "qt_ratio", "bt_same_ratio", "bt_other_ratio", "tt_same_ratio",
          "tt_other_ratio", "best_is_split", "tested", "parent_density", "grandparent_density", "pace_parent",
          "pace_least", "pace_mine", "candidate", "done", "partial_ratio", "remainder_ratio"};
}

}  // namespace fastpart
