#include "session.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <fstream>
#include <iterator>
#include <limits>
#include <stdexcept>

#include "clock.hpp"

namespace fastpart {

namespace session_detail {

constexpr double kInfinity    = std::numeric_limits<double>::infinity();
constexpr double kUnitsPerBit = 32768;
constexpr float  kPaceLimit   = 4;
// A split is asked about up to four times: stop it at random less often, or hardly any would be finished.
constexpr double kContinueExploration = 0.25;

double wall_seconds()
{
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double cpu_seconds() { return double(std::clock()) / CLOCKS_PER_SEC; }

// What a call of the engine within a picture never takes, by far: another process had the core meanwhile.
constexpr uint64_t kInterrupted = 2'000'000;

// Adds the time of a scope to a counter, unless it took so long.
class Stopwatch {
 public:
  explicit Stopwatch(uint64_t& total, uint64_t longest = kInterrupted)
      : total_(total), longest_(longest), start_(cycles()) {}
  ~Stopwatch()
  {
    const uint64_t took = cycles() - start_;
    if (took < longest_) total_ += took;
  }
  uint64_t start() const { return start_; }

 private:
  uint64_t& total_;
  uint64_t  longest_, start_;
};

std::vector<uint8_t> read_file(const std::string& path)
{
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("model file " + path + ": cannot be read");
  return std::vector<uint8_t>(std::istreambuf_iterator<char>(file), {});
}

}  // namespace session_detail

using namespace session_detail;

Session::Session(const Settings& settings, const uint8_t* model, size_t size)
    : settings_(settings), random_state_(settings.seed), start_cycles_(cycles()),
      start_wall_seconds_(wall_seconds()), start_cpu_seconds_(cpu_seconds())
{
  if (!(settings.kappa > 0)) throw std::runtime_error("FastPartKappa is " + std::to_string(settings.kappa) + ", wanted a number above 0");
  if (!(settings.target >= 0 && settings.target < 1))
    throw std::runtime_error("FastPartTargetRatio is " + std::to_string(settings.target) + ", wanted 0 to below 1");
  for (double p : {settings.explore_skip, settings.explore_keep})
  {
    if (!(p >= 0 && p <= 1)) throw std::runtime_error("exploration probability is " + std::to_string(p) + ", wanted 0 to 1");
  }
  if (settings.enabled)
  {
    std::vector<uint8_t> bytes;
    if (!settings.model_path.empty())
    {
      bytes = read_file(settings.model_path);
      model = bytes.data();
      size  = bytes.size();
    }
    else if (size == 0)
    {
      throw std::runtime_error("this encoder has no model compiled in; name one with FastPartModel");
    }
    try
    {
      policy_ = std::make_unique<Policy>(Model::parse(model, size));
    }
    catch (const std::runtime_error& error)
    {
      throw std::runtime_error("model file " + (settings.model_path.empty() ? "(compiled in)" : settings.model_path) +
                               ": " + error.what());
    }
    const PolicyTables& tables = policy_->model().tables;
    if (tables.has_steering)
      steering_ = std::make_unique<Steering>(tables.steering, settings.target);
    else if (settings.target > 0)
      throw std::runtime_error("the model has no steering tables, wanted some for FastPartTargetRatio; set that to 0 or "
                               "add them with fastpart train steer");
  }
  if (!settings.trace_path.empty()) trace_.open(settings.trace_path);
}

Session::~Session() = default;

double Session::random()
{
  uint64_t z = (random_state_ += 0x9e3779b97f4a7c15ull);   // splitmix64
  z          = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z          = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return double((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

void Session::begin_picture(int poc, int qp, int temporal_id, bool intra, Plane luma, int width, int height)
{
  Stopwatch watch(counters_.engine_cycles, std::numeric_limits<uint64_t>::max());
  picture_.build(luma, width, height);
  history_.begin_picture(poc, width, height);
  if (!policy_) return;
  double log_kappa = std::log(settings_.kappa);
  if (steering_)
  {
    end_picture();
    effort_.samples = double(width) * height;
    log_kappa       = steering_->begin_picture(qp, temporal_id, intra, effort_.samples, log_kappa);
  }
  policy_->begin_picture(qp, temporal_id, intra, log_kappa);
}

void Session::end_picture()
{
  if (effort_.pictures > 0) steering_->end_picture(effort_);
  effort_          = Effort();
  effort_.pictures = 1;
}

void Session::end_control()
{
  if (control_.depth != depth_) return;
  effort_.controls += 1;
  effort_.control_estimated += control_.weight * control_.estimated;
  effort_.control_search += control_.weight * (effort_.search - control_.search);
  control_.depth = 0;
}

Budget Session::budget() const
{
  Budget budget;
  const size_t ancestors = depth_ - 1;
  if (ancestors == 0) return budget;
  auto density = [](const Node& node) { return node.best.present ? float(node.best.cost / node.area()) : 0.0f; };
  budget.parent_density = density(stack_[ancestors - 1]);
  if (ancestors > 1) budget.grandparent_density = density(stack_[ancestors - 2]);
  double spent = 0, area_done = 0, least = kInfinity;
  for (size_t i = ancestors; i-- > 0;)
  {
    const Node& node = stack_[i];
    spent += node.partial;
    area_done += node.done * node.area();
    const double area_left = node.area() - area_done;
    if (!node.best.present || area_left <= 0) continue;
    const double affordable = std::max((node.best.cost - spent) / area_left, 1.0);
    const float  pace =
      std::clamp(0.69314718f * (fast_log2(float(affordable)) - fast_log2(density(node) + 1e-3f)), -kPaceLimit, kPaceLimit);
    if (i == ancestors - 1) budget.pace_parent = pace;
    if (least == kInfinity || pace < budget.pace_least) budget.pace_least = pace;
    least = std::min(least, affordable);
  }
  if (least < kInfinity) budget.affordable = float(least);
  return budget;
}

void Session::enter(const NodeGeometry& geometry)
{
  Stopwatch watch(counters_.engine_cycles);
  if (stack_.size() <= depth_) stack_.resize(depth_ + 1);
  Node& node      = stack_[depth_];
  node.geometry   = geometry;
  node.features   = NodeFeatures();
  node.events.clear();
  node.pending.clear();
  node.best    = BestSoFar();
  node.partial = node.done = 0;
  node.parent_split = Candidate::Other;
  node.parent = node.parent_event = -1;
  if (depth_ > 0 && !stack_[depth_ - 1].events.empty())
  {
    const Node& parent = stack_[depth_ - 1];
    node.parent        = parent.index;
    node.parent_event  = int(parent.events.size()) - 1;
    node.parent_split  = parent.events.back().candidate;
  }
  if (!geometry.forced) effort_.search += node_work(geometry.width, geometry.height, geometry.intra_slice);
  node.index = int(tree_.size());
  if (trace_.active()) tree_.push_back({node.parent, node.parent_event, -1, 0, {}, {}});
  depth_++;
}

// Below a control nothing is skipped, so questions would only be traced.
bool Session::asks(const Node& node, Candidate candidate) const
{
  return node.geometry.askable && node.best.present && (control_.depth == 0 || trace_.active()) &&
         worth_asking(candidate, node.geometry.width * node.geometry.height);
}

bool Session::ask(Node& node, Question& question, uint64_t now)
{
  if (policy_) policy_->prefetch(question.candidate, node.geometry.intra_slice);
  question.best = node.best;
  for (const Event& event : node.events)
  {
    if (event.cost == kInfinity) continue;
    question.tested++;
    double& cost = is_split(event.candidate) ? question.split_cost[int(event.candidate)] : question.unsplit_cost;
    if (cost == 0 || event.cost < cost) cost = event.cost;
  }
  if (!node.features.texture_ready)
  {
    node.features.prepare_texture(node.geometry, picture_, history_);
    node.budget = budget();                    // its ancestors wait: the same until it is left
  }

  float features[kFeatures];
  extract(node.geometry, node.parent_split, node.features, node.budget, question, features);
  counters_.asked[int(question.candidate)]++;
  double     log_time = 0;
  const bool refuse =
    policy_ && policy_->skip(question.candidate, node.geometry.intra_slice, node.geometry.chroma, features, log_time);
  bool       skip   = refuse;
  double     explore = refuse ? settings_.explore_keep : settings_.explore_skip;
  if (!refuse && question.candidate == Candidate::Continue) explore *= kContinueExploration;
  if (explore > 0 && random() < explore) skip = !skip;
  const Group group = group_of(question.candidate, node.geometry.intra_slice);
  const double time = skip ? std::exp(log_time) : 0;
  if (skip && steering_ && settings_.explore_keep == 0)   // exploration has its own sample
  {
    if (control_.depth > 0)
    {
      skip = false;
    }
    else if (group != Group::Mode)
    {
      const double weight = steering_->control(time);
      if (weight > 0)
      {
        skip     = false;
        control_ = {depth_, weight, time, effort_.search};
      }
    }
  }
  if (skip)
  {
    effort_.skipped[size_t(group)] += time;
    counters_.skipped[int(question.candidate)]++;
  }
  else if (trace_.active())
  {
    TraceRecord record{};
    record.start       = now;
    record.poc         = node.geometry.poc;
    record.x           = uint16_t(node.geometry.x);
    record.y           = uint16_t(node.geometry.y);
    record.candidate   = uint8_t(question.candidate);
    record.flags       = refuse ? kPolicySkip : 0;
    record.log2_width  = uint8_t(log2_of(node.geometry.width));
    record.log2_height = uint8_t(log2_of(node.geometry.height));
    std::copy_n(features, int(kFeatures), record.features);
    const bool going = question.candidate == Candidate::Continue;
    node.pending.push_back({record, int(node.events.size()) - (going ? 1 : 0)});
  }
  return !skip;
}

bool Session::consider(Candidate candidate, const BestSoFar& best, Plane original, Plane reconstruction)
{
  Stopwatch watch(counters_.engine_cycles);
  Node&     node = stack_[depth_ - 1];
  if (!node.events.empty() && node.events.back().end == 0) node.events.back().end = watch.start();
  end_control();
  node.best    = best;
  node.partial = node.done = 0;
  if (asks(node, candidate))
  {
    if (is_split(candidate) && !node.features.error_ready && reconstruction.samples)
    {
      node.features.prepare_error(original, reconstruction, node.geometry.width, node.geometry.height);
    }
    Question question;
    question.candidate = candidate;
    if (!ask(node, question, watch.start())) return false;
  }
  node.events.push_back({candidate, kInfinity, 0});
  return true;
}

void Session::result(double cost)
{
  Node& node = stack_[depth_ - 1];
  if (!node.events.empty()) node.events.back().cost = std::min(node.events.back().cost, cost);
}

bool Session::child_done(double partial_cost, int child_width, int child_height, bool may_stop)
{
  Stopwatch watch(counters_.engine_cycles);
  Node&     node = stack_[depth_ - 1];
  node.partial   = partial_cost;
  node.done      = std::min(1.0, node.done + double(child_width) * child_height / node.area());
  if (!may_stop || node.done >= 1 || !asks(node, Candidate::Continue)) return true;
  Question question;
  question.candidate    = Candidate::Continue;
  question.under_way    = node.events.back().candidate;
  question.partial_cost = partial_cost;
  question.done         = float(node.done);
  return ask(node, question, watch.start());
}

void Session::leave()
{
  Stopwatch watch(counters_.engine_cycles);
  end_control();
  Node& node = stack_[--depth_];
  if (!trace_.active()) return;
  if (!node.events.empty() && node.events.back().end == 0) node.events.back().end = watch.start();
  double best = kInfinity, second = kInfinity;
  int    winner = -1;
  for (size_t i = 0; i < node.events.size(); i++)
  {
    const double cost = node.events[i].cost;
    if (cost < best)
    {
      second = best;
      best   = cost;
      winner = int(i);
    }
    else if (cost < second)
    {
      second = cost;
    }
  }
  Finished& finished = tree_[size_t(node.index)];
  finished.winner    = winner;
  finished.gap       = second < kInfinity ? (second - best) / kUnitsPerBit : kInfinity;
  finished.pending.swap(node.pending);
  finished.events = node.events;
}

void Session::filters_merged() { effort_.filtered = 1; }

void Session::coding_unit(int x, int y, int width, int height)
{
  history_.record(x, y, width, height);
}

void Session::end_ctu()
{
  Stopwatch watch(counters_.engine_cycles);
  std::vector<double> cap(tree_.size(), kInfinity);
  std::vector<bool>   on_path(tree_.size(), true);
  for (size_t i = 0; i < tree_.size(); i++)
  {
    Finished& node = tree_[i];
    if (node.parent >= 0)
    {
      const Finished& parent = tree_[size_t(node.parent)];
      on_path[i]             = on_path[size_t(node.parent)] && parent.winner == node.parent_event;
      cap[i]                 = std::min(cap[size_t(node.parent)], parent.gap);
    }
    for (Pending& pending : node.pending)
    {
      TraceRecord& record = pending.record;
      const bool   won    = node.winner == pending.event;
      record.flags        = uint8_t(record.flags | (on_path[i] ? kOnPath : 0) | (won ? kWon : 0));
      record.regret       = won ? float(node.gap) : 0;
      record.cap          = float(cap[i]);
      record.cycles       = float(node.events[size_t(pending.event)].end - record.start);
      trace_.add(record);
    }
  }
  tree_.clear();
}

void Session::finish()
{
  // Time stamps go on while others have the core.
  counters_.total_seconds = cpu_seconds() - start_cpu_seconds_;
  const double running    = counters_.total_seconds / (wall_seconds() - start_wall_seconds_);
  counters_.total_cycles  = uint64_t(double(cycles() - start_cycles_) * running);
  if (steering_) end_picture();
  trace_.close();
}

Counters Session::counters() const { return counters_; }

uint32_t Session::model_checksum() const { return policy_ ? policy_->model().checksum : 0; }

}  // namespace fastpart
