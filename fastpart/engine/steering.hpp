// Steers kappa from picture to picture, so that the search takes a wanted share of the time of the same
// search without skips.
//
// Time is a virtual clock, made of counts of the search, the model's own estimates of modes and constants of the
// model file: equal input gives equal decisions. What a skipped split would have taken is estimated by the time
// ensembles, and these are put right by control CTUs of inter pictures: a few in which nothing is skipped, so that
// the clock shows what is.
#pragma once

#include <array>
#include <cstdint>

#include "model.hpp"

namespace fastpart {

// What the search did in pictures of a layer. Estimated times in the unit of the time ensembles.
struct Effort {
  double pictures = 0;
  double nodes = 0, area = 0;                  // nodes searched, their luma samples
  double kept = 0;                             // estimated time of the modes that were asked about and tested
  double controls = 0;                         // control CTUs
  double control_estimated = 0;                // estimated time of the splits that would have been skipped there
  double control_area = 0, control_kept = 0;   // their part of area and kept
  std::array<double, kGroups> skipped{};       // estimated time of what was skipped, by group

  void add(const Effort& other);
};

class Steering {
 public:
  // target: wanted share, 0 to let kappa alone. tables must outlive this.
  Steering(const SteeringTables& tables, double target);

  // ln of kappa for the next picture; log_kappa without a target.
  double begin_picture(int qp, int temporal_id, bool intra, double log_kappa);
  void   end_picture(const Effort& effort);
  // Is the next CTU of the picture a control CTU?
  bool   control();

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
  // Times by the clock. inter_search: of the search in inter pictures.
  double inter_search(double area, double kept) const;
  double spent(const Effort& effort, bool intra) const;
  double saved(const Effort& effort, bool intra) const;
  double split_scale() const;                  // of the estimates of splits in inter pictures
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
  double                qp_ = 32, offset_ = 0;
  int                   layer_ = kSteeringIntra;
  double                ctus_ = 0, controls_ = 0, next_control_ = 0;     // of inter pictures
  Effort                inter_, intra_;
  std::array<LayerState, kSteeringLayers> layers_;
  std::array<Effort, kSteeringLayers>     efforts_;
};

}  // namespace fastpart
