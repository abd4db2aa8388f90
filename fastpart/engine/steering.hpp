// Steers kappa from picture to picture, so that the search takes a wanted share of the time of the same
// search without skips.
//
// Time is a virtual clock, made of the nodes that the search visits, by their size, and of constants of the model file:
// equal input gives equal decisions. What a skipped split would have taken is estimated by the time
// ensembles, and these are put right by controls: a sample of the splits that would have been skipped is tested
// after all, with nothing skipped below, so that the clock shows what they take.
#pragma once

#include <array>
#include <cstdint>

#include "model.hpp"

namespace fastpart {

// What the search did in pictures of a layer. Estimated times in the unit of the time ensembles.
struct Effort {
  double pictures = 0, samples = 0;            // and their luma samples
  double filtered = 0;                         // of the pictures, where classes of filters were merged without repetition
  double search = 0;                           // nodes searched, each by node_work
  double controls = 0;                         // splits that were tested although they would have been skipped
  // Of all splits that would have been skipped, as the controls say that stand for them: estimated time, and the
  // search that it takes to test them.
  double control_estimated = 0, control_search = 0;
  std::array<double, kGroups> skipped{};       // estimated time of what was skipped, by group

  void add(const Effort& other);
};

// What the search of a node takes without its children: in inter pictures in nodes of 4x4 luma samples, in intra
// pictures 1.
double node_work(int width, int height, bool intra);

// The target for pictures of so many luma samples: `small` up to 832x480, `hd` from 1920x1080 on, between the two by
// the logarithm of the samples; `small` at every size where hd is 0, or small is. Throws std::runtime_error unless hd is
// from 0 to below 1.
double target_of_size(double small, double hd, double samples);

class Steering {
 public:
  // target: wanted share, 0 to let kappa alone. tables must outlive this.
  Steering(const SteeringTables& tables, double target);

  // ln of kappa for the next picture, of so many luma samples; log_kappa without a target.
  double begin_picture(int qp, int temporal_id, bool intra, double samples, double log_kappa);
  void   end_picture(const Effort& effort);
  // A split of this estimated time would be skipped. 0: skip it. Else it is a control, and the number is how many
  // of its like it stands for.
  double control(double estimated);

  const std::array<Effort, kSteeringLayers>& efforts() const { return efforts_; }
  // Estimated share of time taken so far.
  double share() const;

 private:
  using Mix = std::array<double, kSteeringLayers>;
  struct LayerState {
    double logit_error = 0;                    // of the prior skip_logit for this clip
    double picture_time = 0;                   // without skips
    int    remaining = 0;                      // pictures to come in this GOP
    bool   seen = false;
  };
  struct Sample {
    double roots = 0;                          // of the estimated times of splits that would have been skipped
    double due = 0;                            // controls
    double next = 0, taken = 0;                // the next one is taken when so many are due
  };
  // Times by the clock.
  double filtering(double pictures) const;     // saved in so many pictures like those so far, whatever the search skips
  double spent(const Effort& effort, bool intra) const;
  double saved(const Effort& effort, bool intra) const;
  Effort total(bool intra) const;              // of all pictures of a kind
  double split_scale(bool intra) const;        // of the estimates of splits
  double stock() const;                        // time of all pictures so far without skips
  double prior_logit(int layer) const;
  double prior_time(int layer) const;
  double common_error() const;
  double steer() const;                        // ln of kappa for the picture begun
  // ln of kappa at which pictures that take `mix` of time without skips by layer save `wanted` of it.
  double solve(const Mix& mix, double wanted, bool by_prior) const;

  const SteeringTables& tables_;
  double                target_;
  double                spent_ = 0;
  double                qp_ = 32, samples_ = 0, offset_ = 0;
  int                   layer_ = kSteeringIntra;
  std::array<Sample, 2> controls_;                                       // of inter and of intra pictures
  std::array<LayerState, kSteeringLayers> layers_;
  std::array<Effort, kSteeringLayers>     efforts_;
};

}  // namespace fastpart
