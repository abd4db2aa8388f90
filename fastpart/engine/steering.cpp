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
// The nth control CTU is about number 2 n^2 of its kind: what it teaches is worth less and less, its time is not.
constexpr double kControlSpacing = 2;

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
  controls += other.controls;
  control_estimated += other.control_estimated;
  control_measured += other.control_measured;
  for (int group = 0; group < kGroups; group++) skipped[size_t(group)] += other.skipped[size_t(group)];
}

Steering::Steering(const SteeringTables& tables, double target) : tables_(tables), target_(target) {}

double Steering::spent(const Effort& effort, bool intra) const
{
  return tables_.picture_time * effort.pictures + tables_.node_time[intra] * effort.nodes +
         tables_.area_time[intra] * effort.area + tables_.kept_scale * effort.kept;
}

double Steering::saved(const Effort& effort, bool intra) const
{
  const double modes  = effort.skipped[size_t(Group::Mode)];
  const double splits = std::accumulate(effort.skipped.begin(), effort.skipped.end(), 0.0) - modes;
  return split_scale(intra) * splits + tables_.kept_scale * modes;
}

double Steering::split_scale(bool intra) const
{
  const Effort& effort = kinds_[intra].effort;
  const double  usual  = tables_.split_scale[intra];
  if (!(effort.control_estimated > 0 && effort.control_measured > 0)) return usual;
  const double weight = effort.controls / (effort.controls + tables_.split_scale_controls[intra]);
  return usual * std::pow(effort.control_measured / (usual * effort.control_estimated), weight);
}

double Steering::stock() const
{
  return spent_ + saved(kinds_[0].effort, false) + saved(kinds_[1].effort, true);
}

bool Steering::control()
{
  Kind& kind = kinds_[layer_ == kSteeringIntra];
  if (++kind.ctus < kind.next_control) return false;
  // The golden ratio spreads them over the columns of CTUs.
  const double n    = ++kind.controls;
  kind.next_control = kind.ctus + kControlSpacing * (2 * n + 1) * (0.5 + std::fmod(0.618034 * n, 1.0));
  return true;
}

double Steering::share() const
{
  const double stock = this->stock();
  if (!(spent_ > 0 && spent_ < stock)) return 1;
  const float* line = tables_.calibration;
  return 1 - share_of(line[0] + line[1] * (qp_ - kReferenceQp) + line[2] * logit(1 - spent_ / stock));
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
  if (intra ? spent_ == 0 : current.remaining == 0)
    for (int i = 0; i < kSteeringLayers; i++) layers_[size_t(i)].remaining = kGop[i];
  offset_ = log_kappa;
  if (target_ > 0) offset_ = steer();
  if (current.remaining > 0) current.remaining--;
  return offset_;
}

double Steering::steer() const
{
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
  const double wanted = clock_share();
  const double centre = solve(usual, (1 - wanted) * std::accumulate(usual.begin(), usual.end(), 0.0), true);
  const double here   = solve(mix, (1 - wanted) * ahead + spent_ - wanted * stock(), false);
  return std::clamp(here, centre + kDown, centre + kUp);
}

void Steering::end_picture(const Effort& effort)
{
  const bool   intra = layer_ == kSteeringIntra;
  const double time  = spent(effort, intra);
  efforts_[size_t(layer_)].add(effort);
  if (time <= 0) return;
  kinds_[intra].effort.add(effort);
  spent_ += time;
  const double rest     = saved(effort, intra);
  const double expected = prior_logit(layer_) + tables_.logit_slope * offset_;
  const double found    = std::log(std::max(rest, 1e-3 * time) / time);
  LayerState&  layer    = layers_[size_t(layer_)];
  const double weight   = layer.seen ? kMemory : 1;
  layer.logit_error += weight * (found - expected - layer.logit_error);
  layer.picture_time += weight * (time + rest - layer.picture_time);
  layer.seen = true;
}

}  // namespace fastpart
