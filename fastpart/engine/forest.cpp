#include "forest.hpp"

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
  const Tree   zero{{}, {0.0}};                // adding +0.0 changes no sum that began with +0.0
  const size_t trees = loss_.size() + time_.size();
  for (size_t first = 0; first < trees; first += kLanes)
  {
    const Tree* lanes[kLanes];
    uint32_t    loss_lanes = 0;
    for (size_t lane = 0; lane < kLanes; lane++)
    {
      const size_t tree = first + lane;
      lanes[lane] = tree < loss_.size() ? &loss_[tree] : tree < trees ? &time_[tree - loss_.size()] : &zero;
      loss_lanes += tree < loss_.size();
    }
    add_bundle(lanes, loss_lanes);
  }
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

void GroupModel::add_bundle(const Tree* const trees[kLanes], uint32_t loss_lanes)
{
  Bundle bundle{uint32_t(lines_.size()), uint32_t(values_.size()), 0, loss_lanes};

  // Breadth first, siblings side by side; `child` numbers nodes and leaves as TreeNode does.
  struct Place { int lane; int32_t child; uint32_t depth; };
  std::vector<Place>    places;
  std::vector<FlatNode> flat;
  for (int lane = 0; lane < kLanes; lane++) places.push_back({lane, trees[lane]->nodes.empty() ? ~0 : 0, 0});
  for (size_t i = 0; i < places.size(); i++)
  {
    const Place place = places[i];
    const Tree& tree  = *trees[place.lane];
    if (place.child < 0)
    {
      flat.push_back({uint32_t(values_.size() - bundle.first_value), kNeverGreater, uint16_t(i)});
      values_.push_back(tree.leaves[size_t(~place.child)]);
      if (place.depth > bundle.depth) bundle.depth = place.depth;
      continue;
    }
    const TreeNode& node = tree.nodes[size_t(place.child)];
    flat.push_back({forest_detail::key_of_threshold(node.threshold), column(node), uint16_t(places.size())});
    places.push_back({place.lane, node.left, place.depth + 1});
    places.push_back({place.lane, node.right, place.depth + 1});
  }
  for (size_t i = 0; i < flat.size(); i++)
  {
    if (i % kLanes == 0) lines_.emplace_back();
    lines_.back().nodes[i % kLanes] = flat[i];
  }
  bundles_.push_back(bundle);
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

  double sum[2] = {0, 0};
  for (const Bundle& bundle : bundles_)
  {
    const FlatNode* nodes  = lines_[bundle.first_line].nodes;
    const double*   values = values_.data() + bundle.first_value;
    uint32_t        at[kLanes];
    for (int lane = 0; lane < kLanes; lane++) at[lane] = uint32_t(lane);
    for (uint32_t step = 0; step < bundle.depth; step++)
      for (int lane = 0; lane < kLanes; lane++)
      {
        const FlatNode& node = nodes[at[lane]];
        at[lane] = node.child + (node.key < keys[node.column]);
      }
    for (uint32_t lane = 0; lane < kLanes; lane++)
      sum[lane >= bundle.loss_lanes] += values[nodes[at[lane]].key];
  }
  raw_loss = sum[0];
  raw_time = sum[1];
}

void GroupModel::predict_plain(const float* features, double& raw_loss, double& raw_time) const
{
  raw_loss = forest_detail::plain_sum(loss_, features);
  raw_time = forest_detail::plain_sum(time_, features);
}

}  // namespace fastpart
