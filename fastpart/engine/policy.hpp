// Skip a candidate when its expected loss in bits, weighted by layer, is below kappa times its expected time.
#pragma once

#include "features.hpp"
#include "model.hpp"

namespace fastpart {

Group group_of(Candidate candidate, bool intra_slice);

// Whether skipping such a candidate in a node of so many luma samples saves far more than asking costs.
bool worth_asking(Candidate candidate, int area);

class Policy {
 public:
  // Throws std::runtime_error if the model was made for other features than this engine's.
  explicit Policy(Model model);
  const Model& model() const { return model_; }
  // Sets the picture's threshold; log_kappa is ln of the knob, 0 as trained.
  void begin_picture(int qp, int temporal_id, bool intra, double log_kappa);
  // Announces a question: skip will follow.
  void prefetch(Candidate candidate, bool intra_slice) const
  {
    model_.groups[int(group_of(candidate, intra_slice))].prefetch();
  }
  // log_time: ln of the expected time of the test. False, with log_time -infinity, also when the model has no
  // ensembles for this kind of candidate.
  bool skip(Candidate candidate, bool intra_slice, bool chroma, const float* features, double& log_time) const;

 private:
  Model  model_;
  double threshold_ = 0, chroma_threshold_ = 0;   // ln of loss per time below which a candidate is skipped, layer weight included
};

}  // namespace fastpart
