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
// The nth control CTU is about number 2 n^2 of inter pictures: what it teaches is worth less and less, its time is not.
constexpr double kControlSpacing = 2;

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
  control_area += other.control_area;
  control_kept += other.control_kept;
  for (int group = 0; group < kGroups; group++) skipped[size_t(group)] += other.skipped[size_t(group)];
}

Steering::Steering(const SteeringTables& tables, double target) : tables_(tables), target_(target) {}

double Steering::inter_search(double area, double kept) const
{
  return tables_.area_time * std::exp(tables_.area_slope * (qp_ - kReferenceQp)) * area + tables_.kept_scale * kept;
}

double Steering::spent(const Effort& effort, bool intra) const
{
  if (intra) return tables_.node_time * effort.nodes;
  return tables_.picture_time * effort.pictures + inter_search(effort.area, effort.kept);
}

double Steering::saved(const Effort& effort, bool intra) const
{
  // Skipped modes are left out: what they save is part of the scale.
  double splits = 0;
  for (const Group group : {Group::SplitInter, Group::SplitIntra, Group::Continue}) splits += effort.skipped[size_t(group)];
  return tables_.saved_scale[intra] * (intra ? 1 : split_scale()) * splits;
}

double Steering::split_scale() const
{
  const double measured = inter_search(inter_.control_area, inter_.control_kept);
  if (!(inter_.control_estimated > 0 && measured > 0)) return tables_.split_scale;
  const double weight = inter_.controls / (inter_.controls + tables_.split_scale_controls);
  return tables_.split_scale * std::pow(measured / (tables_.split_scale * inter_.control_estimated), weight);
}

double Steering::stock() const { return spent_ + saved(inter_, false) + saved(intra_, true); }

bool Steering::control()
{
  if (layer_ == kSteeringIntra || ++ctus_ < next_control_) return false;
  // The golden ratio spreads them over the columns of CTUs.
  const double n = ++controls_;
  next_control_  = ctus_ + kControlSpacing * (2 * n + 1) * (0.5 + std::fmod(0.618034 * n, 1.0));
  return true;
}

double Steering::share() const
{
  const double stock = this->stock();
  return stock > 0 ? spent_ / stock : 1;
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
  const double centre = solve(usual, (1 - target_) * std::accumulate(usual.begin(), usual.end(), 0.0), true);
  const double here   = solve(mix, (1 - target_) * ahead + spent_ - target_ * stock(), false);
  return std::clamp(here, centre + kDown, centre + kUp);
}

void Steering::end_picture(const Effort& effort)
{
  const bool   intra = layer_ == kSteeringIntra;
  const double time  = spent(effort, intra);
  efforts_[size_t(layer_)].add(effort);
  if (time <= 0) return;
  (intra ? intra_ : inter_).add(effort);
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
