// Inference of LightGBM tree ensembles, equal to LightGBM's predict(raw_score=True) to the last bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastpart {

constexpr int kMaxFeatures = 128;
constexpr int kMaxLeaves   = 4096;             // of one tree

// What sends a value the default way: nothing (NaN counts as 0), zero or NaN, NaN.
enum class Missing : uint8_t { None, Zero, NaN };

// value <= threshold goes left. Child c >= 0 is a node, which comes after its parent; c < 0 is leaf ~c.
struct TreeNode {
  double   threshold    = 0;
  uint16_t feature      = 0;
  Missing  missing      = Missing::None;
  bool     default_left = false;
  int32_t  left = 0, right = 0;
};

struct Tree {
  std::vector<TreeNode> nodes;                 // root first; none if the tree is one leaf
  std::vector<double>   leaves;                // nodes.size() + 1 values
};

// Throws std::runtime_error unless the tree is one that GroupModel can walk: every node and leaf has one
// parent, parents come first, features are below `features`, no threshold is NaN, all leaves are finite.
void check_tree(const Tree& tree, int features);

// The loss and the time ensemble that answer one kind of question about the same features.
class GroupModel {
 public:
  GroupModel() = default;
  // Both of trees that pass check_tree.
  GroupModel(std::vector<Tree> loss, std::vector<Tree> time);

  bool empty() const { return loss_.empty() && time_.empty(); }
  size_t loss_trees() const { return loss_.size(); }
  size_t time_trees() const { return time_.size(); }

  // Fetches the roots into the cache while the caller makes the features.
  void prefetch() const;
  // Raw scores: leaf values summed in tree order. `features` as many as the model lists.
  void predict(const float* features, double& raw_loss, double& raw_time) const;
  // The same by the definition: trees as stored, one after the other, compared in double precision.
  void predict_plain(const float* features, double& raw_loss, double& raw_time) const;

 private:
  static constexpr uint32_t kLine    = 8;      // nodes in a cache line
  static constexpr uint32_t kAbreast = 8;      // trees walked side by side: as many as registers hold
  static constexpr uint32_t kBatch   = 128;    // trees whose leaves are summed together

  // Inner node: the left child lies `step` further if the column's key <= key, else the right one beside it.
  // Leaf: step 0, column kNeverGreater, key is the index of its value.
  struct FlatNode { uint32_t key; uint16_t column, step; };
  struct alignas(64) NodeLine { FlatNode nodes[kLine]; };
  static constexpr uint16_t kNeverGreater = 0; // the column whose key is always 0
  // Trees of one batch, of like depth: root nodes and places in the batch.
  struct Abreast { uint32_t depth = 0, roots[kAbreast], places[kAbreast]; };

  uint16_t column(const TreeNode& node);
  uint32_t add_tree(const Tree& tree, std::vector<FlatNode>& flat);
  void     line_up(const std::vector<uint32_t>& depths);

  std::vector<Tree>     loss_, time_;
  // Values as unsigned keys that order like them. A feature that nodes treat in several ways where it is missing has
  // several columns: one of each `width_` features, then a second of each, and so on, from column 1.
  size_t                width_ = 0;
  std::vector<uint32_t> key_of_zero_, key_of_nan_;
  std::vector<uint8_t>  used_;
  std::vector<NodeLine> lines_;
  std::vector<uint32_t> roots_;                // nodes, of the loss trees and then of the time trees
  std::vector<Abreast>  abreast_;
  std::vector<double>   values_;               // of all leaves
};

}  // namespace fastpart
