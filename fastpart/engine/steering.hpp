// Steers kappa from picture to picture, so that the search takes a wanted share of the time of the same
// search without skips.
//
// Time is a virtual clock, made of the model's own estimates and of constants of the model file: equal
// input gives equal decisions. What a skip saves is the estimate of the time ensembles, scaled.
#pragma once

#include <array>
#include <cstdint>

#include "model.hpp"

namespace fastpart {

// What the search did in pictures of a layer. Times in the unit of the time ensembles.
struct Effort {
  double pictures = 0;
  double nodes = 0, area = 0;                  // nodes searched, their luma samples
  double kept = 0;                             // estimated time of the modes that were asked about and tested
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

  const std::array<Effort, kSteeringLayers>& efforts() const { return efforts_; }
  // Estimated share of time taken so far.
  double share() const;

 private:
  using Mix = std::array<double, kSteeringLayers>;
  struct Times { double spent, saved; };
  struct LayerState {
    double logit_error = 0;                    // of the prior skip_logit for this clip
    double picture_time = 0;                   // without skips
    int    remaining = 0;                      // pictures to come in this GOP
    bool   seen = false;
  };

  Times  times(const Effort& effort, bool intra) const;
  double clock_share() const;
  double prior_logit(int layer) const;
  double prior_time(int layer) const;
  double common_error() const;
  // ln of kappa at which pictures that take `mix` of time without skips by layer save `wanted` of it.
  double solve(const Mix& mix, double wanted, bool by_prior) const;

  const SteeringTables& tables_;
  double                target_;
  double                spent_ = 0, stock_ = 0;
  double                qp_ = 32, offset_ = 0;
  int                   layer_ = kSteeringIntra;
  std::array<LayerState, kSteeringLayers> layers_;
  std::array<Effort, kSteeringLayers>     efforts_;
};

}  // namespace fastpart
