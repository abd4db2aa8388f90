#include "steering.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>

#include "node.hpp"

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
// A split of estimated time t is a control with probability root(t) over the root of the sum of all root(t) so far and
// this start. Root(t): what a control teaches grows with t, so does what it costs. The sum: what it teaches is worth
// less and less.
constexpr double kControlStart = 1000;
// Power of a node's area that its time in inter pictures grows with: what fits encodes of 416x240 to 1920x1080 best.
// In intra pictures nodes are small, and the number alone fits best.
constexpr double kAreaPower = 0.6;

struct WorkTable {
  double work[11];                             // of 4x4 to 128x128 luma samples
  WorkTable()
  {
    for (int doublings = 0; doublings < 11; doublings++) work[doublings] = std::exp2(kAreaPower * doublings);
  }
};

double share_of(double logit) { return 1 / (1 + std::exp(-logit)); }

}  // namespace steering_detail

using namespace steering_detail;

void Effort::add(const Effort& other)
{
  pictures += other.pictures;
  samples += other.samples;
  filtered += other.filtered;
  search += other.search;
  controls += other.controls;
  control_estimated += other.control_estimated;
  control_search += other.control_search;
  for (int group = 0; group < kGroups; group++) skipped[size_t(group)] += other.skipped[size_t(group)];
}

double node_work(int width, int height, bool intra)
{
  static const WorkTable table;
  return intra ? 1 : table.work[log2_of(width * height) - log2_of(4 * 4)];
}

double target_of_size(double small, double hd, double samples)
{
  if (!(hd >= 0 && hd < 1))
    throw std::runtime_error("FastPartTargetRatioHD is " + std::to_string(hd) + ", wanted 0 to below 1");
  if (!(small > 0) || hd == 0) return small;
  constexpr double kSmall = 832 * 480, kHd = 1920 * 1080;
  const double     way = std::log(samples / kSmall) / std::log(kHd / kSmall);
  return small + (hd - small) * std::clamp(way, 0.0, 1.0);
}

Steering::Steering(const SteeringTables& tables, double target) : tables_(tables), target_(target) {}

double Steering::filtering(double pictures) const
{
  double all = 0, filtered = 0;
  for (const Effort& effort : efforts_) all += effort.pictures, filtered += effort.filtered;
  return tables_.filter_time_saved * pictures * (all > 0 ? filtered / all : 1);
}

double Steering::spent(const Effort& effort, bool intra) const
{
  const double outside = tables_.picture_time * effort.pictures + tables_.sample_time * effort.samples;
  return (intra ? 0 : outside) + tables_.node_time[intra] * effort.search;
}

double Steering::saved(const Effort& effort, bool intra) const
{
  // What skipped modes and splits given up half-way save is part of the scale: the fit does not tell it apart.
  const Group splits = intra ? Group::SplitIntra : Group::SplitInter;
  return tables_.saved_scale[intra] * split_scale(intra) * effort.skipped[size_t(splits)];
}

Effort Steering::total(bool intra) const
{
  if (intra) return efforts_[kSteeringIntra];
  Effort all;
  for (int layer = 0; layer < kSteeringIntra; layer++) all.add(efforts_[size_t(layer)]);
  return all;
}

double Steering::split_scale(bool intra) const
{
  const Effort all      = total(intra);
  const double usual    = tables_.split_scale[intra];
  const double measured = tables_.node_time[intra] * all.control_search;
  if (!(all.control_estimated > 0 && measured > 0)) return usual;
  const double weight = all.controls / (all.controls + tables_.split_scale_controls[intra]);
  return usual * std::pow(measured / (usual * all.control_estimated), weight);
}

double Steering::stock() const
{
  const Effort inter = total(false), intra = total(true);
  return spent_ + saved(inter, false) + saved(intra, true) + filtering(inter.pictures + intra.pictures);
}

double Steering::control(double estimated)
{
  Sample&      sample      = controls_[layer_ == kSteeringIntra];
  const double root        = std::sqrt(estimated);
  sample.roots += root;
  const double probability = std::min(1.0, root / std::sqrt(sample.roots + kControlStart));
  sample.due += probability;
  if (sample.due < sample.next) return 0;
  // One to each unit that is due, at a place in it that the golden ratio varies.
  sample.taken += 1;
  sample.next = sample.taken + std::fmod(0.618034 * sample.taken, 1.0);
  return 1 / probability;
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
  return samples_ * std::exp(line[0] + line[1] * (qp_ - kReferenceQp));
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

double Steering::begin_picture(int qp, int temporal_id, bool intra, double samples, double log_kappa)
{
  layer_ = intra ? int(kSteeringIntra) : std::min(temporal_id, int(kSteeringIntra) - 1);
  if (intra) qp_ = qp;
  samples_ = samples;
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
  double ahead = 0, gop = 0, pictures = 0, usual_pictures = 0;
  for (int i = 0; i < kSteeringLayers; i++)
  {
    const LayerState& layer = layers_[size_t(i)];
    const double      time  = layer.seen ? layer.picture_time : scale * prior_time(i);
    const double count = layer.remaining + (i == layer_ && layer.remaining == 0);
    mix[size_t(i)] = time * count;
    ahead += mix[size_t(i)];
    pictures += count;
    gop += time * kGop[i];
    usual[size_t(i)] = scale * prior_time(i) * std::max(kGop[i], 1);
    usual_pictures += std::max(kGop[i], 1);
  }
  const double stretch = std::max(1.0, kShortest * gop / ahead);
  for (double& time : mix) time *= stretch;
  ahead *= stretch;
  // What the search has to save: what filtering does not.
  auto wanted = [this](double search, double of) { return (1 - target_) * search - target_ * filtering(of); };
  const double centre = solve(usual, wanted(std::accumulate(usual.begin(), usual.end(), 0.0), usual_pictures), true);
  const double here   = solve(mix, wanted(ahead, stretch * pictures) + spent_ - target_ * stock(), false);
  return std::clamp(here, centre + kDown, centre + kUp);
}

void Steering::end_picture(const Effort& effort)
{
  const bool   intra = layer_ == kSteeringIntra;
  const double time  = spent(effort, intra);
  efforts_[size_t(layer_)].add(effort);
  if (time <= 0) return;
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
