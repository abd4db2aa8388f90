#include "forest.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

namespace fastpart {
namespace forest_detail {

constexpr float    kZeroThreshold = 1e-35f;    // LightGBM's kZeroThreshold: not larger counts as 0
constexpr int32_t  kInfinity      = 0x7F800000;// the bits of a magnitude; NaN is above
constexpr uint32_t kKeyOfZero     = 0x80000000;
constexpr uint32_t kKeyLeft       = 0;         // below the key of -inf, so below every threshold
constexpr uint32_t kKeyRight      = 0xFFFFFFFF;// above the key of +inf
constexpr size_t   kMaxColumns    = 5 * kMaxFeatures;

uint32_t bits_of(float value)
{
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Unsigned integers in the order of the floats, NaN apart.
uint32_t key_of_bits(uint32_t bits) { return bits ^ (uint32_t(-int32_t(bits >> 31)) | 0x80000000); }

// For every float x: key(x) <= key_of_threshold(t) if and only if double(x) <= t.
uint32_t key_of_threshold(double threshold)
{
  using Limits = std::numeric_limits<float>;
  float below;                                 // the largest float not above the threshold
  if (threshold >= double(Limits::max()))
    below = std::isinf(threshold) ? Limits::infinity() : Limits::max();
  else if (threshold < -double(Limits::max()))
    below = -Limits::infinity();
  else
  {
    below = float(threshold);
    if (double(below) > threshold) below = std::nextafter(below, -Limits::infinity());
  }
  return below == 0 ? kKeyOfZero : key_of_bits(bits_of(below));
}

double plain_value(const Tree& tree, const float* features)
{
  if (tree.nodes.empty()) return tree.leaves[0];
  int32_t at = 0;
  while (at >= 0)
  {
    const TreeNode& node  = tree.nodes[size_t(at)];
    double          value = double(features[node.feature]);
    if (std::fabs(value) <= double(kZeroThreshold)) value = 0;
    if (std::isnan(value) && node.missing != Missing::NaN) value = 0;
    const bool missing = (node.missing == Missing::Zero && value == 0) || std::isnan(value);
    at = (missing ? node.default_left : value <= node.threshold) ? node.left : node.right;
  }
  return tree.leaves[size_t(~at)];
}

double plain_sum(const std::vector<Tree>& trees, const float* features)
{
  double sum = 0;
  for (const Tree& tree : trees) sum += plain_value(tree, features);
  return sum;
}

}  // namespace forest_detail

void check_tree(const Tree& tree, int features)
{
  const auto fail  = [](const std::string& what) { throw std::runtime_error(what); };
  const auto count = int64_t(tree.nodes.size());
  if (int64_t(tree.leaves.size()) != count + 1 || count >= kMaxLeaves)
    fail(std::to_string(count) + " nodes and " + std::to_string(tree.leaves.size()) +
         " leaves, wanted one leaf more than nodes and at most " + std::to_string(kMaxLeaves) + " leaves");
  std::vector<bool> node_has_parent(tree.nodes.size()), leaf_has_parent(tree.leaves.size());
  for (int64_t index = 0; index < count; index++)
  {
    const TreeNode&   node  = tree.nodes[size_t(index)];
    const std::string where = "node " + std::to_string(index) + ": ";
    if (node.feature >= features)
      fail(where + "feature " + std::to_string(node.feature) + ", wanted below " + std::to_string(features));
    if (std::isnan(node.threshold)) fail(where + "threshold is NaN, wanted a number");
    for (const int64_t child : {int64_t(node.left), int64_t(node.right)})
    {
      if (child >= 0 ? (child <= index || child >= count) : -1 - child > count)
        fail(where + "child " + std::to_string(child) + ", wanted a node from " + std::to_string(index + 1) +
             " to " + std::to_string(count - 1) + " or a leaf from -1 to " + std::to_string(-1 - count));
      auto       seen   = child >= 0 ? node_has_parent.begin() + child : leaf_has_parent.begin() + (-1 - child);
      const bool second = *seen;
      *seen             = true;
      if (second) fail(where + "child " + std::to_string(child) + " has two parents, wanted one");
    }
  }
  for (size_t leaf = 0; leaf < tree.leaves.size(); leaf++)
    if (!std::isfinite(tree.leaves[leaf]))
      fail("leaf " + std::to_string(leaf) + " is not finite, wanted a finite number");
}

GroupModel::GroupModel(std::vector<Tree> loss, std::vector<Tree> time)
    : loss_(std::move(loss)), time_(std::move(time))
{
  for (const std::vector<Tree>* trees : {&loss_, &time_})
    for (const Tree& tree : *trees)
      for (const TreeNode& node : tree.nodes) width_ = std::max(width_, size_t(node.feature) + 1);
  std::vector<FlatNode> flat;
  std::vector<uint32_t> depths;
  for (const std::vector<Tree>* trees : {&loss_, &time_})
    for (const Tree& tree : *trees) depths.push_back(add_tree(tree, flat));
  lines_.resize((flat.size() + kLine - 1) / kLine);
  for (size_t i = 0; i < flat.size(); i++) lines_[i / kLine].nodes[i % kLine] = flat[i];
  line_up(depths);
}

uint16_t GroupModel::column(const TreeNode& node)
{
  const uint32_t the_default = node.default_left ? forest_detail::kKeyLeft : forest_detail::kKeyRight;
  const uint32_t zero        = node.missing == Missing::Zero ? the_default : forest_detail::kKeyOfZero;
  const uint32_t nan         = node.missing == Missing::NaN ? the_default : zero;
  size_t i = node.feature;
  while (i < used_.size() && used_[i] && (key_of_zero_[i] != zero || key_of_nan_[i] != nan)) i += width_;
  if (i >= used_.size())
  {
    used_.resize(used_.size() + width_);
    key_of_zero_.resize(used_.size());
    key_of_nan_.resize(used_.size());
  }
  used_[i]        = true;
  key_of_zero_[i] = zero;
  key_of_nan_[i]  = nan;
  return uint16_t(i + 1);
}

// Trees of a batch by depth, kAbreast at a time, so that few wait at a leaf for others to arrive.
void GroupModel::line_up(const std::vector<uint32_t>& depths)
{
  for (uint32_t first = 0; first < depths.size(); first += kBatch)
  {
    std::vector<uint32_t> places(std::min<size_t>(kBatch, depths.size() - first));
    std::iota(places.begin(), places.end(), 0u);
    std::stable_sort(places.begin(), places.end(), [&](uint32_t a, uint32_t b) { return depths[first + a] < depths[first + b]; });
    for (size_t i = 0; i < places.size(); i += kAbreast)
    {
      Abreast some;
      for (size_t j = 0; j < kAbreast; j++)    // the last again where there are no more
      {
        const uint32_t place = places[std::min(i + j, places.size() - 1)];
        some.roots[j]  = roots_[first + place];
        some.places[j] = place;
        some.depth     = std::max(some.depth, depths[first + place]);
      }
      abreast_.push_back(some);
    }
  }
}

uint32_t GroupModel::add_tree(const Tree& tree, std::vector<FlatNode>& flat)
{
  // A cache line holds four pairs of siblings, close relatives if possible. The root begins a line.
  struct Place { int32_t child; size_t at; uint32_t depth; };  // child as in TreeNode
  const auto first_value = uint32_t(values_.size());
  values_.insert(values_.end(), tree.leaves.begin(), tree.leaves.end());
  flat.resize((flat.size() + kLine - 1) / kLine * kLine);
  uint32_t deepest = 0;
  std::vector<Place> pending{{tree.nodes.empty() ? ~0 : 0, flat.size(), 0}};
  roots_.push_back(uint32_t(flat.size()));
  flat.resize(flat.size() + 2);
  while (!pending.empty())
  {
    std::vector<Place> relatives{pending.back()};
    pending.pop_back();
    for (size_t i = 0; i < relatives.size(); i++)
    {
      const Place place = relatives[i];
      deepest = std::max(deepest, place.depth);
      if (place.child < 0)
      {
        flat[place.at] = {first_value + uint32_t(~place.child), kNeverGreater, 0};
        continue;
      }
      if (i > 0 && flat.size() % kLine == 0)
      {
        pending.push_back(place);
        continue;
      }
      const TreeNode& node = tree.nodes[size_t(place.child)];
      flat[place.at] = {forest_detail::key_of_threshold(node.threshold), column(node),
                        uint16_t(flat.size() - place.at)};
      relatives.push_back({node.left, flat.size(), place.depth + 1});
      relatives.push_back({node.right, flat.size() + 1, place.depth + 1});
      flat.resize(flat.size() + 2);
    }
  }
  return deepest;
}

void GroupModel::prefetch() const
{
#if defined(__GNUC__)
  for (const uint32_t root : roots_) __builtin_prefetch(&lines_[root / kLine]);
#endif
}

void GroupModel::predict(const float* features, double& raw_loss, double& raw_time) const
{
  using namespace forest_detail;
  const auto zero_threshold = int32_t(bits_of(kZeroThreshold));
  uint32_t   keys[kMaxColumns + 1];
  keys[kNeverGreater] = 0;
  for (size_t first = 0; first < key_of_zero_.size(); first += width_)
    for (size_t i = 0; i < width_; i++)        // masks instead of branches, for the vector unit
    {
      const uint32_t bits      = bits_of(features[i]);
      const auto     magnitude = int32_t(bits & 0x7FFFFFFF);
      const uint32_t zero      = magnitude <= zero_threshold ? 0xFFFFFFFF : 0;
      const uint32_t nan       = magnitude > kInfinity ? 0xFFFFFFFF : 0;
      keys[1 + first + i] = (key_of_bits(bits) & ~(zero | nan)) | (key_of_zero_[first + i] & zero) | (key_of_nan_[first + i] & nan);
    }

  const auto* nodes = reinterpret_cast<const FlatNode*>(lines_.data());
  const auto* some  = abreast_.data();
  double      loss = 0, time = 0;
  for (size_t first = 0; first < roots_.size(); first += kBatch)
  {
    const size_t trees = std::min<size_t>(kBatch, roots_.size() - first);
    uint32_t     value_of[kBatch];
    for (const auto* end = some + (trees + kAbreast - 1) / kAbreast; some < end; some++)
    {
      size_t at[kAbreast];
      for (uint32_t i = 0; i < kAbreast; i++) at[i] = some->roots[i];
      for (uint32_t step = 0; step < some->depth; step++)
        for (uint32_t i = 0; i < kAbreast; i++)
        {
          const FlatNode& node = nodes[at[i]];
          at[i] += size_t(node.step) + (node.key < keys[node.column]);
        }
      for (uint32_t i = 0; i < kAbreast; i++) value_of[some->places[i]] = nodes[at[i]].key;
    }
    const size_t loss_trees = std::min(trees, loss_.size() - std::min(first, loss_.size()));
    for (size_t tree = 0; tree < loss_trees; tree++) loss += values_[value_of[tree]];
    for (size_t tree = loss_trees; tree < trees; tree++) time += values_[value_of[tree]];
  }
  raw_loss = loss;
  raw_time = time;
}

void GroupModel::predict_plain(const float* features, double& raw_loss, double& raw_time) const
{
  raw_loss = forest_detail::plain_sum(loss_, features);
  raw_time = forest_detail::plain_sum(time_, features);
}

}  // namespace fastpart
