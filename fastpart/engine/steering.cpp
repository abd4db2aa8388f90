#include "steering.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fastpart {
namespace steering_detail {

// Pictures of each temporal layer in the GOP of 32 of the random-access configuration.
constexpr int    kGop[kSteeringLayers] = {1, 1, 2, 4, 8, 16, 0};
constexpr double kReferenceQp  = 32;
constexpr double kMemory       = 0.5;     // weight of the newest picture of a layer
constexpr double kShortest     = 0.25;    // of a GOP's time, over which a deviation is made up at the soonest
constexpr int    kSteps        = 12;      // so coarse that the last bit of a sum does not show
constexpr double kSlowest = -3, kFastest = 3;     // ln of kappa
constexpr double kDown = -0.75, kUp = 1;          // how far a clip may move it from where the prior has it
// What the clock shows is off by 0.038 rms of T on clips left out (fastpart train steer), and a limit on T is missed on
// one side only. So a picture that saves less than training clips do on average is believed, and one that saves more
// in small part and never beyond their spread of 0.2 to 0.6 rms in ln odds. With both believed alike, an encode took
// 0.83 of the time where 0.63 was wanted, as its estimates were wrong by e^1.2 in the intra picture.
constexpr double kTrustMore = 0.35, kCredible = 0.7;

double logit(double share) { return std::log(share / (1 - share)); }
double share_of(double logit) { return 1 / (1 + std::exp(-logit)); }

}  // namespace steering_detail

using namespace steering_detail;

void Effort::add(const Effort& other)
{
  pictures += other.pictures;
  nodes += other.nodes;
  area += other.area;
  kept += other.kept;
  for (int group = 0; group < kGroups; group++) skipped[size_t(group)] += other.skipped[size_t(group)];
}

Steering::Steering(const SteeringTables& tables, double target) : tables_(tables), target_(target) {}

Steering::Times Steering::times(const Effort& effort, bool intra) const
{
  double saved = 0;
  for (const double time : effort.skipped) saved += time;
  return {tables_.picture_time * effort.pictures + tables_.node_time[intra] * effort.nodes + 
            tables_.area_time[intra] * effort.area + tables_.kept_scale * effort.kept,
          saved};
}

double Steering::share() const
{
  if (!(spent_ > 0 && spent_ < stock_)) return 1;
  const float* line = tables_.calibration;
  return 1 - share_of(line[0] + line[1] * (qp_ - kReferenceQp) + line[2] * logit(1 - spent_ / stock_));
}

// The share of time by the virtual clock that corresponds to the target.
double Steering::clock_share() const
{
  const float* line = tables_.calibration;
  return 1 - share_of((logit(1 - target_) - line[0] - line[1] * (qp_ - kReferenceQp)) / line[2]);
}

double Steering::prior_logit(int layer) const
{
  const float* line = tables_.skip_logit[layer];
  return line[0] + line[1] * (qp_ - kReferenceQp);
}

double Steering::prior_time(int layer) const
{
  const float* line = tables_.log_time[layer];
  return std::exp(line[0] + line[1] * (qp_ - kReferenceQp));
}

double Steering::common_error() const
{
  double weight = kShortest * prior_time(kSteeringIntra), sum = 0;
  for (int i = 0; i < kSteeringIntra; i++)
  {
    if (!layers_[size_t(i)].seen) continue;
    weight += prior_time(i);
    sum += prior_time(i) * layers_[size_t(i)].logit_error;
  }
  return sum / weight;
}

double Steering::solve(const Mix& mix, double wanted, bool by_prior) const
{
  const double common = common_error();           // of inter layers not seen yet
  double       slowest = kSlowest, fastest = kFastest;
  for (int step = 0; step < kSteps; step++)
  {
    const double middle = (slowest + fastest) / 2;
    double       saved  = 0;
    for (int i = 0; i < kSteeringLayers; i++)
    {
      const LayerState& layer = layers_[size_t(i)];
      const double      error = by_prior ? 0 : layer.seen ? layer.logit_error : common;
      saved += mix[size_t(i)] * share_of(prior_logit(i) + error + tables_.logit_slope * middle);
    }
    (saved < wanted ? slowest : fastest) = middle;
  }
  return (slowest + fastest) / 2;
}

double Steering::begin_picture(int qp, int temporal_id, bool intra, double log_kappa)
{
  layer_ = intra ? int(kSteeringIntra) : std::min(temporal_id, int(kSteeringIntra) - 1);
  if (intra) qp_ = qp;
  LayerState& current = layers_[size_t(layer_)];
  if (current.remaining == 0 && !intra)
    for (int i = 0; i < kSteeringLayers; i++) layers_[size_t(i)].remaining = kGop[i];
  if (intra && stock_ == 0)
    for (int i = 0; i < kSteeringLayers; i++) layers_[size_t(i)].remaining = kGop[i];

  // Times of pictures not seen yet: those of the prior, scaled as those seen are on average.
  double found = 0, expected = 0;
  for (int i = 0; i < kSteeringLayers; i++)
    if (layers_[size_t(i)].seen) found += layers_[size_t(i)].picture_time, expected += prior_time(i);
  const double scale = expected > 0 ? found / expected : 1;

  Mix    mix{}, usual{};
  double ahead = 0, gop = 0;
  for (int i = 0; i < kSteeringLayers; i++)
  {
    const LayerState& layer = layers_[size_t(i)];
    const double      time  = layer.seen ? layer.picture_time : scale * prior_time(i);
    mix[size_t(i)] = time * (layer.remaining + (i == layer_ && layer.remaining == 0));
    ahead += mix[size_t(i)];
    gop += time * kGop[i];
    usual[size_t(i)] = prior_time(i) * std::max(kGop[i], 1);
  }
  const double stretch = std::max(1.0, kShortest * gop / ahead);
  for (double& time : mix) time *= stretch;
  ahead *= stretch;
  offset_ = log_kappa;
  if (target_ > 0)
  {
    const double wanted = clock_share();
    const double centre = solve(usual, (1 - wanted) * std::accumulate(usual.begin(), usual.end(), 0.0), true);
    offset_ = std::clamp(solve(mix, (1 - wanted) * ahead + spent_ - wanted * stock_, false), centre + kDown, centre + kUp);
  }
  if (current.remaining > 0) current.remaining--;
  return offset_;
}

void Steering::end_picture(const Effort& effort)
{
  const Times  time  = times(effort, layer_ == kSteeringIntra);
  efforts_[size_t(layer_)].add(effort);
  if (time.spent <= 0) return;
  const double expected  = prior_logit(layer_) + tables_.logit_slope * offset_;
  const double found     = std::log(std::max(time.saved, 1e-3 * time.spent) / time.spent);
  const double deviation = found - expected;
  const double error     = deviation > 0 ? kTrustMore * std::min(deviation, kCredible) : std::max(deviation, -kCredible);
  const double stock     = time.spent * (1 + std::exp(expected + error));
  spent_ += time.spent;
  stock_ += stock;
  LayerState&  layer  = layers_[size_t(layer_)];
  const double weight = layer.seen ? kMemory : 1;
  layer.logit_error += weight * (error - layer.logit_error);
  layer.picture_time += weight * (stock - layer.picture_time);
  layer.seen = true;
}

}  // namespace fastpart
