#include "forest.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace fastpart {
namespace forest_detail {

constexpr float    kZeroThreshold = 1e-35f;    // LightGBM's kZeroThreshold: not larger counts as 0
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
  std::vector<FlatNode> flat;
  for (const Tree& tree : loss_) add_tree(tree, flat);
  for (const Tree& tree : time_) add_tree(tree, flat);
  lines_.resize((flat.size() + kLine - 1) / kLine);
  for (size_t i = 0; i < flat.size(); i++) lines_[i / kLine].nodes[i % kLine] = flat[i];
}

uint16_t GroupModel::column(const TreeNode& node)
{
  const uint32_t the_default = node.default_left ? forest_detail::kKeyLeft : forest_detail::kKeyRight;
  const uint32_t zero        = node.missing == Missing::Zero ? the_default : forest_detail::kKeyOfZero;
  const uint32_t nan         = node.missing == Missing::NaN ? the_default : zero;
  for (size_t i = 0; i < columns_.size(); i++)
    if (columns_[i].feature == node.feature && columns_[i].key_of_zero == zero && columns_[i].key_of_nan == nan)
      return uint16_t(i + 1);
  columns_.push_back({node.feature, zero, nan});
  return uint16_t(columns_.size());
}

void GroupModel::add_tree(const Tree& tree, std::vector<FlatNode>& flat)
{
  // A cache line holds four pairs of siblings, close relatives if possible. The root begins a line.
  struct Place { int32_t child; size_t at; };  // child as in TreeNode
  const auto first_value = uint32_t(values_.size());
  values_.insert(values_.end(), tree.leaves.begin(), tree.leaves.end());
  flat.resize((flat.size() + kLine - 1) / kLine * kLine);
  std::vector<Place> pending{{tree.nodes.empty() ? ~0 : 0, flat.size()}};
  roots_.push_back(uint32_t(flat.size()));
  flat.resize(flat.size() + 2);
  while (!pending.empty())
  {
    std::vector<Place> relatives{pending.back()};
    pending.pop_back();
    for (size_t i = 0; i < relatives.size(); i++)
    {
      const Place place = relatives[i];
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
      relatives.push_back({node.left, flat.size()});
      relatives.push_back({node.right, flat.size() + 1});
      flat.resize(flat.size() + 2);
    }
  }
}

void GroupModel::prefetch() const
{
#if defined(__GNUC__)
  for (const uint32_t root : roots_) __builtin_prefetch(&lines_[root / kLine]);
#endif
}

void GroupModel::predict(const float* features, double& raw_loss, double& raw_time) const
{
  uint32_t keys[forest_detail::kMaxColumns + 1];
  keys[kNeverGreater] = 0;
  for (size_t i = 0; i < columns_.size(); i++)
  {
    const Column&  column    = columns_[i];
    const uint32_t bits      = forest_detail::bits_of(features[column.feature]);
    const uint32_t magnitude = bits & 0x7FFFFFFF;
    uint32_t       key       = forest_detail::key_of_bits(bits);
    key = magnitude <= forest_detail::bits_of(forest_detail::kZeroThreshold) ? column.key_of_zero : key;
    key = magnitude > 0x7F800000 ? column.key_of_nan : key;
    keys[i + 1] = key;
  }

  // All trees of a chunk go some steps down without a branch; those at a leaf then drop out.
  const auto* nodes = reinterpret_cast<const FlatNode*>(lines_.data());
  double      loss = 0, time = 0;
  for (size_t first = 0; first < roots_.size(); first += kChunk)
  {
    const auto trees = uint32_t(std::min<size_t>(kChunk, roots_.size() - first));
    uint32_t   at[kChunk], tree_of[kChunk], value_of[kChunk];
    for (uint32_t i = 0; i < trees; i++)
    {
      at[i]      = roots_[first + i];
      tree_of[i] = i;
    }
    int steps = 5;
    for (uint32_t walking = trees; walking; steps = 3)
    {
      for (int step = 0; step < steps; step++)
        for (uint32_t i = 0; i < walking; i++)
        {
          const FlatNode& node = nodes[at[i]];
          at[i] += node.step + (node.key < keys[node.column]);
        }
      uint32_t inner = 0;
      for (uint32_t i = 0; i < walking; i++)
      {
        const FlatNode& node = nodes[at[i]];
        const uint32_t  tree = tree_of[i];
        value_of[tree] = node.key;
        at[inner]      = at[i];
        tree_of[inner] = tree;
        inner += node.step != 0;
      }
      walking = inner;
    }
    const auto loss_trees = uint32_t(std::min<size_t>(trees, loss_.size() - std::min(first, loss_.size())));
    for (uint32_t tree = 0; tree < loss_trees; tree++) loss += values_[value_of[tree]];
    for (uint32_t tree = loss_trees; tree < trees; tree++) time += values_[value_of[tree]];
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
