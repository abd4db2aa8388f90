// The model file: ensembles, policy tables and metadata in one checked file.
//
// Little endian, IEEE floats, no padding:
//   magic      8 bytes "FASTPART"
//   version    u32 = 6
//   size       u64, bytes of payload
//   payload
//   checksum   u32, CRC-32 of all before it
// payload:
//   metadata   u32 length, UTF-8 JSON
//   features   u32 count (1..128); each: u16 length, UTF-8 name
//   tables     u32 knots (1..64); f32 qp[knots]; f32 log_kappa[knots]; f32 log_layer_weight[8];
//              u32 steering (0 none, 1); if 1, the 40 f32 of SteeringTables in its order
//   groups     u32 count = 4, in the order of Group; each: the loss forest, the time forest
// forest:      u32 trees; each:
//   nodes      u32 count; each: f64 threshold, u16 feature, u8 missing (0 none, 1 zero, 2 NaN),
//              u8 default left, i32 left, i32 right    (children as in TreeNode)
//   leaves     f64 value[count + 1]
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "forest.hpp"

namespace fastpart {

// Which pair of ensembles answers a question.
enum class Group : int { SplitInter, SplitIntra, Continue, Mode, Count };
constexpr int kGroups = int(Group::Count);
constexpr const char* kGroupNames[kGroups] = {"split_inter", "split_intra", "continue", "mode"};

constexpr int kLayers = 8;
// Places in log_layer_weight. Losses spread to the pictures that refer to a layer, so they differ in worth.
enum Layer : int { kIntraLuma = 0, kFirstTemporal = 1, kLastTemporal = 6, kIntraChroma = 7 };   // 1 + TId, TId 5 and above alike

// Layers as steering sees them: TId 0 to 5 of inter pictures (5 and above alike), intra pictures.
constexpr int kSteeringLayers = 7;
constexpr int kSteeringIntra  = 6;

// The virtual clock and what it shows on average, see steering.hpp. Times in user seconds of the machine that
// observed them, of which only ratios count. Pairs of the layers are the value where intra pictures have QP 32 and
// its slope over that QP.
struct SteeringTables {
  float picture_time, sample_time;             // of an inter picture and of its luma samples, outside the search
  float node_time[2];                          // by node_work, in inter and in intra pictures
  float filter_time_saved;                     // of a picture, by merging the classes of its filters without repetition
  float split_scale[2];                        // on the estimates of splits in a usual clip, in inter and intra pictures
  float split_scale_controls[2];               // controls that weigh as much as that
  float saved_scale[2];                        // on what skipped splits save, in inter and intra pictures
  float skip_logit[kSteeringLayers][2];        // ln odds of the share of time saved at kappa = 1
  float log_time[kSteeringLayers][2];          // ln of a picture's time without skips, per luma sample
  float logit_slope;                           // growth of the ln odds with ln kappa
};

struct PolicyTables {
  std::vector<float> qp_knots;                 // ascending slice QPs
  std::vector<float> log_kappa;                // at each knot: log of the skip threshold (loss per time) at kappa = 1
  float log_layer_weight[kLayers] = {};        // log of the weight of the expected loss; see Layer
  bool  has_steering = false;
  SteeringTables steering{};
};

struct Model {
  GroupModel   groups[kGroups];                // a group the model does not answer is empty
  PolicyTables tables;
  std::string  metadata;                       // JSON: recipe, training data, versions
  std::vector<std::string> features;           // names, in the order of the values
  uint32_t     checksum = 0;                   // as stored at the end of the file

  // Reads a whole model file. Throws std::runtime_error that says what was found and what was wanted.
  static Model parse(const uint8_t* data, size_t size);
};

}  // namespace fastpart
