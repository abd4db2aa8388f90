// The feature vector of one question. Every value is a function of the bitstream so far and of the
// source, never of time, so that the same input gives the same decisions.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "node.hpp"
#include "picture.hpp"

namespace fastpart {

// Feature order is part of the model file: append only, and retrain.
enum Feature : int {
  kQp, kTemporalId, kIntraSlice, kChroma,
  kLog2Along, kLog2Across,                     // along: the direction in which the split cuts, see `transposed`
  kQtDepth, kBtDepth, kMtDepth, kMtLeft, kParentSplit, kChildIndex,
  kBeforeAlong, kBeforeAcross, kBeforeQt, kBeforeMt,      // neighbour met in the cut direction: log2 sizes against
  kBesideAlong, kBesideAcross, kBesideQt, kBesideMt,      // the node's, depths against the node's; then the other one
  kNeighbourSkips, kNeighbourIntras,
  kWasInter, kWasIntra, kWasSkip,
  kCollocatedMean, kCollocatedMin, kCollocatedDistance,   // log2 area in the nearest coded picture against the node's
  kVariance, kGradientAlong, kGradientAcross,             // log2
  kWithinAlong, kWithinAcross, kWithinQuad, kWithinTriple,// log2 of variance within the parts over variance
  kQuadContrast,                                          // log2 of largest over smallest quadrant variance
  kErrorLevel, kErrorAlong, kErrorAcross, kErrorQuad, kErrorMiddle,  // squared error of the best unsplit candidate
  kBestCost, kBestDistortionShare, kBestBits, kBestUnits,
  kBestSkip, kBestMerge, kBestIntra, kBestAffine, kBestGeo, kBestCiip, kBestMmvd, kBestBi, kBestCbf, kBestAmvr,
  kUnsplitRatio, kQtRatio, kBtSameRatio, kBtOtherRatio, kTtSameRatio, kTtOtherRatio,  // ln cost / best cost, NaN if untested
  kBestIsSplit, kTested,
  kParentDensity, kGrandparentDensity,                    // ln cost per sample against the ancestor's
  kPaceParent, kPaceLeast, kPaceMine,                     // ln of the cost per sample that an ancestor can still afford
  kCandidate,
  kDone, kPartialRatio, kRemainderRatio,                  // of a split under way
  kFeatures
};

// Names in the order of the vector, as the model file carries them.
std::vector<std::string> feature_names();

// What the ancestors allow: see kPace... in features.cpp.
struct Budget {
  float parent_density = 0, grandparent_density = 0;  // cost per luma sample of their best, 0 if none
  float pace_parent = 0, pace_least = 0;              // ln of affordable over actual density; 0 at the root
  float affordable = 0;                               // cost per sample that the parent can still afford, 0 if unbounded
};

// A node's knowledge at the moment of a question.
struct Question {
  Candidate     candidate    = Candidate::Other;
  Candidate     under_way    = Candidate::Other;   // the split, if candidate is Continue
  double        partial_cost = 0;                  // of the children done
  float         done         = 0;                  // their share of the node's area
  BestSoFar     best;
  double        unsplit_cost = 0;                  // 0 if not tested
  std::array<double, kSplits> split_cost{};        // 0 if not tested
  int           tested = 0;                        // candidates that gave a result
};

// Features that do not change while the node is searched, in both orientations.
struct NodeFeatures {
  bool  texture_ready = false, error_ready = false;
  float variance = 0, gradient_h = 0, gradient_v = 0;
  float within_h = 0, within_v = 0, within_quad = 0, within_triple_h = 0, within_triple_v = 0, contrast = 0;
  bool  has_history = false;
  float history_mean = 0, history_min = 0, history_distance = 0;
  float error_level = 0, error_h = 0, error_v = 0, error_quad = 0, error_middle_h = 0, error_middle_v = 0;

  void prepare_texture(const NodeGeometry& node, const PictureStats& picture, const SizeHistory& history);
  // Squared error of the best unsplit candidate on a 4x4 grid of the node (luma of width x height).
  void prepare_error(Plane original, Plane reconstruction, int width, int height);
};

// Fills features[kFeatures].
void extract(const NodeGeometry& node, Candidate parent_split, const NodeFeatures& cached, const Budget& budget,
             const Question& question, float* features);

// log2 of a positive number, within 1e-4, the same on every machine.
inline float fast_log2(float x)
{
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const int      exponent = int(bits >> 23) - 127;
  const uint32_t mantissa = (bits & 0x7fffffu) | 0x3f800000u;
  float          m;
  std::memcpy(&m, &mantissa, sizeof m);
  const float f = m - 1.0f;  // minimax polynomial of log2(1 + f) on [0, 1)
  return float(exponent) +
         f * (1.4425449f + f * (-0.7181450f + f * (0.4575479f + f * (-0.2779029f + f * (0.1217957f + f * -0.0258407f)))));
}

}  // namespace fastpart
