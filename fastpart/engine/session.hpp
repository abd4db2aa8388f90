// One encode: follows the encoder through the coding tree, answers its questions and keeps the trace.
//
// Calls nest as the search does:
//   begin_picture, { enter, { consider, (children: enter ... leave, child_done)*, result* }*, leave }*,
//   coding_unit*, end_ctu
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "features.hpp"
#include "policy.hpp"
#include "steering.hpp"
#include "trace.hpp"

namespace fastpart {

struct Settings {
  bool        enabled = false;       // let the policy skip
  double      kappa   = 1;           // > 0; larger is faster; not used with a target
  double      target  = 0;           // wanted share of the time without skips, in (0, 1); 0: kappa alone decides
  std::string model_path;            // empty: the model compiled in
  std::string trace_path;            // empty: no trace
  double      explore_skip = 0;      // probability of skipping what the policy would keep
  double      explore_keep = 0;      // probability of keeping what the policy would skip
  uint64_t    seed = 1;
};

struct Counters {
  uint64_t asked[kCandidates]   = {};
  uint64_t skipped[kCandidates] = {};
  uint64_t engine_cycles = 0, total_cycles = 0;   // of this process alone, as the seconds; the total after finish
  double   total_seconds = 0;
};

class Session {
 public:
  // model: bytes of the compiled-in model, used if settings name no file; size 0 if there is none.
  // Throws std::runtime_error for a bad setting, model or trace file.
  Session(const Settings& settings, const uint8_t* model, size_t size);
  ~Session();

  void begin_picture(int poc, int qp, int temporal_id, bool intra, Plane luma, int width, int height);
  void enter(const NodeGeometry& node);
  // May the encoder test this candidate? original and reconstruction: luma of the node and of its best unsplit
  // candidate, or null planes if the best is split or there is none.
  bool consider(Candidate candidate, const BestSoFar& best, Plane original, Plane reconstruction);
  // A cost that the candidate under way reached, as the encoder compares it.
  void result(double cost);
  // A child of the split under way is done and others are left: go on? partial_cost: of all children done.
  // may_stop == false records progress only.
  bool child_done(double partial_cost, int child_width, int child_height, bool may_stop);
  void leave();
  // The adaptive loop filter of the picture merged classes without repetition.
  void filters_merged();
  // A coding unit of the final tree (luma samples).
  void coding_unit(int x, int y, int width, int height);
  void end_ctu();
  // Closes the trace; throws std::runtime_error if it could not be written whole.
  void finish();

  Counters counters() const;
  uint32_t model_checksum() const;
  // By layer, of all pictures begun; share: of the time without skips, by the virtual clock. Null without steering.
  const Steering* steering() const { return steering_.get(); }

 private:
  struct Event {
    Candidate candidate;
    double    cost;
    uint64_t  end;
  };
  struct Pending {
    TraceRecord record;
    int         event;
  };
  struct Node {
    NodeGeometry         geometry;
    NodeFeatures         features;
    Budget               budget;
    Candidate            parent_split = Candidate::Other;
    int                  parent = -1, parent_event = -1;    // index into tree_, event there
    int                  index  = -1;                       // own index into tree_
    std::vector<Event>   events;
    std::vector<Pending> pending;
    BestSoFar            best;
    double               partial = 0, done = 0;             // of the split under way
    double area() const { return double(geometry.width) * geometry.height; }
  };
  struct Finished {                                         // of the CTU under way, parents before children
    int                  parent, parent_event, winner;
    double               gap;                               // second best cost less best, bits
    std::vector<Pending> pending;
    std::vector<Event>   events;
  };

  struct Control {                                          // a split tested though it would have been skipped
    size_t depth = 0;                                       // of the nodes down to the one that tests it; 0: none
    double weight = 0, estimated = 0;
    double search = 0;                                      // of effort_ when it began
  };

  bool   asks(const Node& node, Candidate candidate) const;
  bool   ask(Node& node, Question& question, uint64_t now);
  void   end_control();
  Budget budget() const;                                    // of the node searched
  void   end_picture();
  double random();

  Settings                settings_;
  std::unique_ptr<Policy> policy_;
  std::unique_ptr<Steering> steering_;
  Effort                  effort_;                          // in the picture under way
  Control                 control_;
  TraceWriter             trace_;
  PictureStats            picture_;
  SizeHistory             history_;
  std::vector<Node>       stack_;
  size_t                  depth_ = 0;                       // nodes of stack_ in use; the rest is kept for reuse
  std::vector<Finished>   tree_;
  Counters                counters_;
  uint64_t                random_state_;
  uint64_t                start_cycles_;
  double                  start_wall_seconds_, start_cpu_seconds_;
};

}  // namespace fastpart
